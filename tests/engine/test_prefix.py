"""Prompts that begin with the same pictures read them once, and are answered as each is alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.prefix_entries import PrefixRow, most_queries
from prefixkv.engine.admission import Footprint, Ledger
from prefixkv.engine.decoding import decode
from prefixkv.engine.prefix import Prefixes, SharedPart, cut
from prefixkv.engine.stream import Stream
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.methods.table import METHODS
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.families import tiny_models

NEW = Sampling(max_new_tokens=12)
FAMILIES = [
    *("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3"),
    *("smolvlm", "gemma3", "paligemma", "mistral3", "pixtral", "glm4v", "aya_vision"),
]
SEE_LATER = {"gemma3", "paligemma"}
"""There tokens of a prompt or a picture see later ones, and every prompt is read whole."""


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava(layers=4)


def prompts(count: int = 4, picture_seed: int = 1, before_seed: int = 1) -> list[dict[str, torch.Tensor]]:
    """Prompts of one picture, the same text before it and others behind it."""
    first = tiny.text(64, seed=before_seed)
    first[0, 50:54] = tiny.IMAGE_TOKEN
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(picture_seed))
    return [
        {"input_ids": torch.cat([first, tiny.text(1 + 13 * n, seed=30 + n)], dim=1), "pixel_values": pixels}
        for n in range(count)
    ]


def alone(model: Any, inputs: dict[str, Any], budget: str, method: str) -> list[int]:
    """What one request gives that nothing runs beside."""
    with prefixkv.compress(model, budget, method) as cache:
        return list(decode(model, inputs, cache, NEW, ()))


def ask(engine: prefixkv.Engine, asked: list[dict[str, Any]], budget: str) -> list[Stream]:
    """Submit all before the first can begin."""
    worker = engine._worker
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "start", lambda: None)
        streams = [engine.submit(inputs, budget, NEW, stop_tokens=()) for inputs in asked]
    with worker.lock:
        worker.start()
    return streams


@pytest.mark.exhaustive(keep=9)
@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
@pytest.mark.parametrize("budget", ["100%", "50%", "20%", "5%", "48KiB"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_what_it_keeps_alone(model: Any, method: str, budget: str) -> None:
    if method == "full" and budget == "48KiB":
        budget = "30%"
    asked = prompts()
    expected = [alone(model, inputs, budget, method) for inputs in asked]
    with prefixkv.Engine(model, method, "40MiB", most_rows=3) as engine:
        found = [stream.result(60) for stream in ask(engine, asked, budget)]
    assert found == expected
    assert (engine.prefixes.read, engine.prefixes.bytes, engine.reserved_bytes) == (1, 0, 0)
    assert engine.prefixes.shared == len(asked)


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("family", sorted(SEE_LATER) + [family for family in FAMILIES if family not in SEE_LATER])
def test_every_family_reads_pictures_once_or_each_prompt_whole(family: str) -> None:
    one = getattr(tiny_models, family)()
    questions = ("ba ce", "na pe qu re si ba ba ce", "fo")
    asked = [dict(Prompt(one.processor, [Turn(text, one.pictures)]).inputs) for text in questions]
    expected = [alone(one.model, inputs, "30%", "prefixkv") for inputs in asked]
    with prefixkv.Engine(one.model, "prefixkv", "40MiB") as engine:
        assert [stream.result(60) for stream in ask(engine, asked, "30%")] == expected
    assert engine.prefixes.shared == (0 if family in SEE_LATER else len(asked))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_layers_that_slide_go_on_behind_a_prefix(family: str) -> None:
    """The window layers of a prompt that was read in one piece, and behind a prefix."""
    model, ids = getattr(tiny_models, family)().model, tiny.text(90)
    ids = ids % model.config.get_text_config().vocab_size
    with prefixkv.compress(model, "30%", "prefixkv") as whole, torch.no_grad():
        expected = model(ids, **cache_argument(whole), use_cache=True).logits[:, -1]
        row = whole.row.emptied()
        first = PrefixRow(row.geometry, most_queries(row))
        model(ids[:, :70], **cache_argument(PrefixKVCache.of_rows([first])), use_cache=True)
        entries = first.as_prefix()
        entries.begin(row)
        found = model(ids[:, 70:], **cache_argument(PrefixKVCache.of_rows([row])), use_cache=True).logits[:, -1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        for place, layer in whole.windows.items():
            torch.testing.assert_close(row.windows[place].keys, layer.keys, rtol=1e-4, atol=1e-4)
            assert row.windows[place].cumulative_length == layer.cumulative_length == 90
        kept = [row.kept_positions(index) for index in range(row.geometry.layers)]
        assert all(torch.equal(own, whole.kept_positions(index)) for index, own in enumerate(kept))
        assert row.windows
        assert entries.bytes > sum(keys.nbytes for keys, _ in entries.layers)


def test_other_pictures_other_texts_before_and_other_scorers_share_nothing(model: Any) -> None:
    groups = [prompts(2), prompts(2, picture_seed=2), prompts(2, before_seed=2)]
    asked = [inputs for group in groups for inputs in group]
    expected = [alone(model, inputs, "20%", "h2o") for inputs in asked]
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        found = [stream.result(60) for stream in ask(engine, asked, "20%")]
    assert found == expected
    assert (engine.prefixes.read, engine.prefixes.shared) == (3, 6)
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        ask(engine, [group[0] for group in groups], "20%")
    assert (engine.prefixes.read, engine.prefixes.shared) == (0, 0)
    rows = [prefixkv.compress(model, budget, "h2o") for budget in ("20%", "100%")]
    with rows[0] as small, rows[1] as whole:
        parts = [SharedPart.of(model, asked[0], cache.row) for cache in (small, whole)]
    assert parts[0] is not None
    assert parts[1] is not None
    assert parts[0].key != parts[1].key
    assert parts[0].bytes > parts[1].bytes


@pytest.mark.parametrize("method", ["h2o", "snapkv", "local"])
def test_a_prefix_takes_the_bytes_that_are_reserved(model: Any, method: str) -> None:
    inputs = prompts()[0]
    with prefixkv.compress(model, "20%", method) as cache, torch.no_grad():
        part = SharedPart.of(model, inputs, cache.row)
        assert part is not None
        row = PrefixRow(cache.row.geometry, part.most_queries)
        model(**cut(inputs, 0, part.tokens), **cache_argument(PrefixKVCache.of_rows([row])), use_cache=True)
        assert row.as_prefix().bytes == part.bytes


@pytest.mark.exhaustive
def test_memory_bounds_prefixes_too(model: Any) -> None:
    """Where a prefix and a prompt do not fit together, each prompt is read alone; the bound holds always."""
    asked = [inputs for seed in range(4) for inputs in prompts(3, picture_seed=seed)]
    expected = [alone(model, inputs, "20%", "h2o") for inputs in asked]
    one = prefixkv.Engine(model, "h2o", "40MiB").footprint(64 + 27, "20%", 12).most
    shared = []
    for memory in (one, one + 50_000, 2 * one + 150_000, 40 * one):
        with prefixkv.Engine(model, "h2o", memory) as engine:
            ledger, most = engine._worker.scheduler.ledger, [0]
            reserve = ledger._set

            def watched(key: Any, count: int, reserve: Any = reserve, most: Any = most, ledger: Any = ledger) -> None:
                reserve(key, count)
                most[0] = max(most[0], ledger.reserved_bytes)

            ledger._set = watched  # type: ignore[method-assign]
            assert [stream.result(60) for stream in ask(engine, asked, "20%")] == expected
        assert 0 < most[0] <= memory
        assert engine.reserved_bytes == 0
        shared.append(engine.prefixes.shared)
    assert shared[0] == 0
    assert shared[-1] == len(asked)


def test_a_prefix_goes_where_it_keeps_the_first_from_beginning(model: Any) -> None:
    with prefixkv.compress(model, "20%", "h2o") as cache:
        part = SharedPart.of(model, prompts()[0], cache.row)
    assert part is not None
    own, other = SimpleNamespace(shared=part), SimpleNamespace(shared=None, footprint=Footprint(900, 900))
    ledger = Ledger(part.bytes + 500)
    found: Any = Prefixes(model, ledger)
    assert found.offer(own, [own])
    found.settle([SimpleNamespace(shared=None, footprint=Footprint(400, 400)), own])
    assert found.bytes == part.bytes
    found.settle([other, own])
    assert (found.bytes, ledger.reserved_bytes) == (0, 0)
    assert found.offer(own, [own])
    found.settle([])
    assert (found.bytes, ledger.reserved_bytes) == (0, 0)


def test_where_a_prefix_finds_no_memory_each_prompt_is_read_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    asked = prompts()
    expected = [alone(model, inputs, "20%", "h2o") for inputs in asked]
    monkeypatch.setattr(PrefixRow, "as_prefix", failing)
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        assert [stream.result(60) for stream in ask(engine, asked, "20%")] == expected
    assert engine.reserved_bytes == engine.prefixes.bytes == 0
