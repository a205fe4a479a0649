"""The project's own decode step against transformers' forward pass, on the CPU in plain torch, float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.decoder.captured import CapturedStep
from prefixkv.engine import captured_rows
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.generation.forward import read_tokens
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.kernels.entry_table import FINE
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.families.all_families import FAMILIES

SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def qwen2() -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def mistral() -> MistralForCausalLM:
    torch.manual_seed(4)
    return MistralForCausalLM(MistralConfig(**SIZES, head_dim=32, sliding_window=None)).eval()


MODELS = {"llama": tiny.llama, "llava": tiny.llava, "qwen2": qwen2, "mistral": mistral}


@contextlib.contextmanager
def packing(model: Any, budget: str, codec: str = "auto") -> Iterator[PrefixKVCache]:
    """An empty cache that packs in 4 bits where 8 hold too little, or as the codec says."""
    geometry = KVGeometry.of(model.config, "float32")
    with attention.installed(model):
        yield PrefixKVCache(geometry, budget, "guided", None, random_look_ahead(model, geometry), codec)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a CPU had graphs: a step is computed anew in plain torch where a GPU replays it."""
    monkeypatch.setattr(captured_rows, "device_obstacle", lambda device: None)


@torch.no_grad()
def run(model: Any, opened: Any, own: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of 40 steps behind a prompt, the tokens being given, and the kept positions of every layer."""
    with opened as cache:
        model(input_ids=tiny.text(40), **cache_argument(cache))
        rows, found = CapturedRows(model, 1), []
        if own:
            rows.join(0, cache.row)
        for step in range(40):
            tokens = tiny.text(1, seed=step)[:, 0]
            found.append(rows.advance(tokens) if own else read_tokens(model, cache, tokens))
        return torch.stack(found), [cache.kept_positions(layer) for layer in range(len(cache.layers))]


@pytest.mark.exhaustive(keep=6)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("budget", "method"), [("100%", "full"), ("30%", "prefixkv"), ("20tok", "h2o"), ("9tok", "local")]
)
def test_own_step_gives_the_logits_and_slots_of_transformers(name: str, budget: str, method: str) -> None:
    model = MODELS[name]()
    plain, plain_positions = run(model, prefixkv.compress(model, budget, method), own=False)
    own, own_positions = run(model, prefixkv.compress(model, budget, method), own=True)
    assert float(plain.std()) > 0.1
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, own_positions, plain_positions))


@pytest.mark.parametrize(("budget", "bits"), [("40%", 8), ("15%", 4)])
def test_own_step_on_packed_entries(budget: str, bits: int) -> None:
    model = mistral()
    plain, plain_positions = run(model, packing(model, budget), own=False)
    own, own_positions = run(model, packing(model, budget), own=True)
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, own_positions, plain_positions))
    with packing(model, budget) as cache, torch.no_grad():
        model(input_ids=tiny.text(40), **cache_argument(cache))
        assert cache.layers[0].bits == bits
        assert captured_rows.obstacle(cache.row, model.device) is None


@pytest.mark.parametrize(
    ("budget", "formats"), [("25%", (FINE + 4, 42)), ("30tok", (FINE + 4, 42)), ("15%", (FINE + 42, 2))]
)
def test_own_step_on_entries_in_two_precisions(budget: str, formats: tuple[int, ...]) -> None:
    model = mistral()
    plain, plain_positions = run(model, packing(model, budget, "mixed"), own=False)
    own, own_positions = run(model, packing(model, budget, "mixed"), own=True)
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, own_positions, plain_positions))
    with packing(model, budget, "mixed") as cache, torch.no_grad():
        model(input_ids=tiny.text(40), **cache_argument(cache))
        assert min(layer.fine.kept_tokens for layer in cache.layers) > 0
        assert captured_rows.formats_of([cache.row]) == formats
        assert captured_rows.obstacle(cache.row, model.device) is None


class Ragged:
    """Rows of other lengths, budgets, methods and precisions, read on a model."""

    KINDS = (("30%", "h2o"), ("20tok", "prefixkv"), ("100%", "full"), ("40%", "guided"), ("9tok", "local"))

    def __init__(self, model: Any) -> None:
        self.model, self.geometry = model, KVGeometry.of(model.config, "float32")
        self.look_ahead = random_look_ahead(model, self.geometry)

    def row(self, kind: int, length: int, seed: int) -> CacheRow:
        row = CacheRow(self.geometry, *self.KINDS[kind], None, self.look_ahead)
        with torch.no_grad():
            self.model(input_ids=tiny.text(length, seed), **cache_argument(PrefixKVCache.of_rows([row])))
        return row


def kept(row: CacheRow) -> list[Any]:
    return [(layer.kept_positions.tolist(), layer.queue.tolist()) for layer in row.layers]


def a_code_has_flipped(one: CacheRow, same: CacheRow) -> bool:
    """Whether rows that pack store the same entries, but for some elements that are one byte's step apart."""
    pairs = zip(one.layers, same.layers, strict=True)
    parts = [(getattr(a, name), getattr(b, name), a.kept_tokens) for a, b in pairs for name in ("keys", "values")]
    return same.bits is not None and any(not torch.equal(a[:, :, :kept], b[:, :, :kept]) for a, b, kept in parts)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rows_that_come_and_go_store_what_they_store_alone(data: st.DataObject) -> None:
    """Arrivals, departures, a second user of the model's step between, and plain steps between captured ones."""
    model = mistral()
    ragged, most = Ragged(model), 5
    with attention.installed(model):
        rows, other = CapturedRows(model, most), CapturedRows(model, 2)
        other.join(1, ragged.row(0, 30, 99))
        here: dict[int, tuple[CacheRow, CacheRow]] = {}
        for step in range(25):
            what = data.draw(st.sampled_from(["step", "step", "step", "join", "leave", "other", "plain"]))
            free = [place for place in range(most) if place not in here]
            if what == "join" and free:
                kind = data.draw(st.integers(0, 4)), data.draw(st.integers(2, 70)), step
                here[free[0]] = ragged.row(*kind), ragged.row(*kind)
                rows.join(free[0], here[free[0]][0])
            elif what == "leave" and here:
                place = data.draw(st.sampled_from(sorted(here)))
                rows.leave(place)
                one, same = here.pop(place)
                assert kept(one) == kept(same)
            elif what == "other":
                other.advance(tiny.text(1, step, 2)[:, 0])
            elif what == "plain" and here:
                place = min(here)
                for row in here[place]:
                    read_tokens(model, PrefixKVCache.of_rows([row]), tiny.text(1, step)[:, 0])
            elif here:
                tokens = tiny.text(1, step, most)[:, 0]
                logits = rows.advance(tokens)
                for index, (place, (_, same)) in enumerate(sorted(here.items())):
                    expected = read_tokens(model, PrefixKVCache.of_rows([same]), tokens[place : place + 1])
                    if not torch.allclose(logits[index], expected[0], rtol=1e-4, atol=1e-4):
                        # The last bit of a sum may round an element that is packed to the other side of a step.
                        assert a_code_has_flipped(*here[place])
                        torch.testing.assert_close(logits[index], expected[0], rtol=5e-3, atol=5e-3)
    for one, same in here.values():
        assert kept(one) == kept(same)
        assert one.seen_tokens == same.seen_tokens


def test_who_leaves_after_another_had_the_step_leaves_the_others_right() -> None:
    model = mistral()
    ragged, tokens = Ragged(model), tiny.text(1, 3, 2)[:, 0]
    with attention.installed(model):
        rows, other = CapturedRows(model, 2), CapturedRows(model, 2)
        other.join(1, ragged.row(0, 30, 99))
        stays, same = ragged.row(1, 20, 1), ragged.row(1, 20, 1)
        rows.join(0, ragged.row(0, 9, 0))
        rows.join(1, stays)
        rows.advance(tokens)
        other.advance(tokens)
        rows.leave(0)
        found = rows.advance(tokens)
        for _ in range(2):
            expected = read_tokens(model, PrefixKVCache.of_rows([same]), tokens[1:])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert kept(stays) == kept(same)


def test_rows_are_not_written_anew_when_their_number_needs_another_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mistral()
    ragged, written = Ragged(model), list[int]()
    write = CapturedRows._write

    def counted(rows: CapturedRows, step: Any, place: int, row: CacheRow) -> None:
        written.append(place)
        write(rows, step, place, row)

    monkeypatch.setattr(CapturedRows, "_write", counted)
    with attention.installed(model):
        rows, stays = CapturedRows(model, 5), ragged.row(0, 30, 1)
        same, sizes = ragged.row(0, 30, 1), []
        rows.join(0, stays)
        for turn, (place, kind) in enumerate([(1, 0), (2, 3), (4, 1)] * 2):
            rows.advance(tiny.text(1, 3 * turn, 5)[:, 0])
            rows.join(place, ragged.row(kind, 20, place))
            found = rows.advance(tiny.text(1, 3 * turn + 1, 5)[:, 0])
            assert rows._step is not None
            sizes.append(rows._step.rows)
            rows.leave(place)
            for step in range(2):
                expected = read_tokens(model, PrefixKVCache.of_rows([same]), tiny.text(1, 3 * turn + step, 5)[:1, 0])
        torch.testing.assert_close(found[:1], expected, rtol=1e-4, atol=1e-4)
        assert kept(stays) == kept(same)
    assert sizes == [2, 4, 8] * 2
    # Its buffer has room for few tokens at first, and is made larger once.
    assert written == [0, 1, 0, 2, 4, 1, 2, 4]


def test_weights_are_looked_at_when_the_first_row_comes_and_not_with_each_that_joins_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, looks = mistral(), list[int]()
    ragged, of = Ragged(model), CapturedStep.of

    def counted(model: Any, rows: int, formats: Any) -> CapturedStep:
        looks.append(rows)
        return of(model, rows, formats)

    monkeypatch.setattr(captured_rows.CapturedStep, "of", counted)
    with attention.installed(model):
        rows, tokens = CapturedRows(model, 8), tiny.text(1, 3, 8)[:, 0]
        for places in ((0, 2, 3), (1, 3)):
            for place in places:
                rows.join(place, ragged.row(0, 20, place))
                rows.advance(tokens)
            for place in places:
                rows.leave(place)
    # The first row of all, one that needs a larger step, and the first after all have gone.
    assert looks == [1, 4, 2, 4]


def test_positions_of_several_axes_go_on_behind_captured_steps() -> None:
    """A plain pass behind captured steps reads its token where it is, in models whose pictures take few positions."""
    built = FAMILIES["Qwen2-VL"]()
    model: Any = built.model
    geometry = KVGeometry.of(model.config, "float32")
    inputs = Prompt(built.processor, [Turn("ba ce di fo gu", built.pictures[:1])]).inputs
    with attention.installed(model), torch.no_grad():
        rows = [CacheRow(geometry, "50%", "h2o") for _ in range(2)]
        for row in rows:
            model(**inputs, **cache_argument(PrefixKVCache.of_rows([row])))
        captured = CapturedRows(model, 1)
        captured.join(0, rows[0])
        for step in range(6):
            tokens = tiny.text(1, step)[:, 0] % 90 + 5
            plain = read_tokens(model, PrefixKVCache.of_rows(rows[1:]), tokens)
            if step in (3, 5):
                found = read_tokens(model, PrefixKVCache.of_rows(rows[:1]), tokens)
            else:
                found = captured.advance(tokens)
            torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4)
        assert rows[0].next_positions is not None
        assert rows[0].next_positions < rows[0].seen_tokens
        assert torch.equal(rows[0].next_positions, rows[1].next_positions)


def test_a_hook_a_changed_layer_and_another_kind_of_decoder_are_told_apart() -> None:
    model = tiny.llama()
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(UnknownDecoderError, match="LlamaMLP has a hook"):
        DecoderWeights.of(model)
    handle.remove()
    # Transformers leaves hooks of its own where hidden states were asked for.
    model(tiny.text(3), output_hidden_states=True)
    DecoderWeights.of(model)
    model.model.layers[1].self_attn.q_proj = torch.nn.Sequential(model.model.layers[1].self_attn.q_proj)
    with pytest.raises(UnknownDecoderError, match="Sequential"):
        DecoderWeights.of(model)
    with pytest.raises(UnknownDecoderError, match="Qwen3DecoderLayer"):
        DecoderWeights.of(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)))
    with pytest.raises(UnknownDecoderError, match="several dtypes"):
        mixed = tiny.llama()
        mixed.model.norm.half()
        DecoderWeights.of(mixed)
