"""What rounding a prompt and its answer costs a model, and the bits that follow from it."""

from __future__ import annotations

from contextlib import nullcontext
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.chat.conversation import Conversation
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import pack, unpack
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.precision import BEARABLE_LOSS, SLIGHT_LOSS, Losses, loses_less_mixed, packed_bits
from prefixkv.policy.rotary import Rotation
from prefixkv.profiles import eviction, rounding
from prefixkv.profiles.calibration import drawn_samples
from prefixkv.profiles.divergence import divergences
from prefixkv.profiles.profile import LayerProfile
from prefixkv.transformers_compat import cache_argument
from tests import tiny

GEOMETRY = KVGeometry(32, 32, 128, "bfloat16")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", [84, 4, 42, 2])
def test_loss_is_that_of_the_rounded_prompt_and_answer(bits: int, demo: LoadedModel) -> None:
    """Against the same by hand: the answer token by token behind the prompt, as they are and both rounded."""

    def rounded(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = (keys, key_bits(bits)), (values, value_bits(bits))
        return tuple(unpack(pack(part, each), each, part.dtype) for part, each in parts)

    class Rounding(DynamicCache):
        """Rounds what comes token by token before it is seen."""

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if key_states.shape[2] == 1:
                key_states, value_states = rounded(key_states, value_states)
            return super().update(key_states, value_states, *args, **kwargs)

    (sample,) = drawn_samples(1, first_seed=71)
    assert sample.image is not None
    inputs = demo.on_device(Prompt(demo.processor, [Turn(sample.prompt, (sample.image,))]).inputs)
    prompt_len = inputs["input_ids"].shape[1]
    with torch.no_grad():
        answer = demo.model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, prompt_len:]
        nats, tokens = divergences(demo.model, demo.geometry, inputs, answer, rounding.rounded_caches(demo.geometry))
        predictions = []
        for kind in (DynamicCache, Rounding):
            cache, said = kind(config=demo.model.config), []
            demo.model(**inputs, **cache_argument(cache))
            for layer in cache.layers if kind is Rounding else ():
                layer.keys, layer.values = rounded(layer.keys, layer.values)
            for token in answer[:-1]:
                out = demo.model(input_ids=token.view(1, 1), **cache_argument(cache))
                said.append(out.logits[0, -1].float().log_softmax(dim=-1))
            predictions.append(torch.stack(said))
    assert tokens == len(answer) - 1
    whole, other = predictions
    assert nats[bits] == pytest.approx(float((whole.exp() * (whole - other)).sum()), rel=1e-3, abs=1e-6)
    assert nats[bits] > 0


@pytest.mark.exhaustive
def test_profile_says_what_the_model_bears(demo: LoadedModel) -> None:
    (sample,) = drawn_samples(1, first_seed=71)
    profile = LayerProfile.measure(demo, [sample], "one scene", answer_tokens=30)
    assert 0 < profile.rounding_losses[4] < profile.rounding_losses[2] < BEARABLE_LOSS
    assert list(profile.eviction_losses) == list(eviction.SHARES)
    assert min(profile.eviction_losses.values()) > 0
    assert list(profile.mixed_losses) == list(eviction.MIXED_SHARES)
    assert min(profile.mixed_losses.values()) > 0


def test_loss_of_eviction_is_that_of_the_compressed_prompt() -> None:
    """Against the same by hand: the answer token by token behind a whole cache and behind a compressed one."""
    model, inputs = tiny.llava(), tiny.prompt(120)
    geometry = ModelIdentity.of("tiny", model.config, "float32").geometry
    generator = torch.Generator().manual_seed(1)
    queries = [torch.randn(4, 16, 16, generator=generator) for _ in range(geometry.layers)]
    look_ahead = LookAhead(queries, torch.arange(16), Rotation(model))
    read = inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)[0, read:]
    with torch.no_grad():
        nats, tokens = divergences(model, geometry, inputs, answer, eviction.evicting_caches(geometry, look_ahead))
        predictions = []
        compressed = PrefixKVCache(geometry, 0.2, "guided", None, look_ahead, "plain")
        for cache, within in (
            (DynamicCache(config=model.config), nullcontext()),
            (compressed, attention.installed(model)),
        ):
            with within:
                out = model(**inputs, **cache_argument(cache))
                said = []
                for token in answer[:-1]:
                    out = model(input_ids=token.view(1, 1), **cache_argument(cache))
                    said.append(out.logits[0, -1].float().log_softmax(dim=-1))
            predictions.append(torch.stack(said))
    whole, other = predictions
    assert tokens == len(answer) - 1
    assert nats[0.2] == pytest.approx(float((whole.exp() * (whole - other)).sum()), rel=1e-3, abs=1e-6)
    assert nats[0.2] > nats[0.5] > 0


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(
    ("budget", "bits"), [("5%", 2), ("10%", 2), ("14.1%", 42), ("20%", 42), ("26.6%", 4), ("40%", 84), ("50%", 8)]
)
def test_the_demo_stores_in_bits_that_it_bears(budget: str, bits: int, demo: LoadedModel) -> None:
    (sample,) = drawn_samples(1, first_seed=73)
    assert sample.image is not None
    conversation = Conversation(demo, budget, "guided", Sampling(24))
    for question, images in ((sample.prompt, [sample.image]), ("How many objects are there?", [])):
        list(conversation.ask(question, images))
        assert conversation.cache.row.bits == bits
        assert {layer.bits for layer in conversation.cache.layers} == {bits}
        usage = conversation.usage()
        assert usage.kept_bytes <= float(budget.rstrip("%")) / 100 * usage.full_bytes


LITTLE, SOME, MUCH = SLIGHT_LOSS, BEARABLE_LOSS, BEARABLE_LOSS * 1.01


@pytest.mark.parametrize(
    ("losses", "bits"),
    [
        ({}, [8, 8, 8, 8, 8, 8]),
        ({4: LITTLE}, [8, 4, 4, 4, 4, 4]),
        ({4: LITTLE, 2: LITTLE}, [8, 4, 4, 2, 2, 2]),
        ({4: LITTLE, 2: SOME}, [8, 4, 4, 4, 4, 2]),
        ({4: SOME, 2: MUCH}, [8, 8, 8, 8, 4, 4]),
        ({4: MUCH, 2: LITTLE}, [8, 8, 8, 8, 8, 8]),
        ({2: LITTLE}, [8, 8, 8, 8, 8, 8]),
    ],
)
def test_bits_follow_from_what_the_budget_holds_and_the_model_loses(losses: dict[int, float], bits: list[int]) -> None:
    def packed(budget: str, before: int | None = None) -> int:
        return packed_bits(GEOMETRY, Budget.parse(budget).room_bytes(GEOMETRY, 3000), 32 * 3000, before, Losses(losses))

    assert [packed(budget) for budget in ("50%", "20%", "16%", "15.4%", "15%", "5%")] == bits
    assert [packed("50%", before) for before in (8, 4, 2)] == [8, 4, 2]


EVICTION = {0.5: 0.001, 0.35: 0.01, 0.2: 0.3, 0.1: 2.0}
"""Nats a token of a model that reads: what is evicted beyond half is soon missed."""


@pytest.mark.parametrize(
    ("rounding", "eviction", "bits"),
    [
        ({4: 0.0001, 2: 0.004}, EVICTION, [8, 4, 4, 2, 2]),
        ({4: 0.0001, 2: 0.5}, EVICTION, [8, 4, 4, 4, 2]),
        ({4: 0.02, 2: 0.5}, EVICTION, [8, 8, 4, 4, 2]),
        ({4: 3.6, 2: 5.0}, EVICTION, [8, 8, 8, 8, 8]),
        ({4: 0.02, 2: 0.5}, {share: loss / 100 for share, loss in EVICTION.items()}, [8, 8, 8, 8, 8]),
        ({4: 0.0001}, EVICTION, [8, 4, 4, 4, 4]),
        ({}, EVICTION, [8, 8, 8, 8, 8]),
    ],
)
def test_bits_are_those_by_which_least_is_lost(
    rounding: dict[int, float], eviction: dict[float, float], bits: list[int]
) -> None:
    losses = Losses(rounding, eviction)

    def packed(budget: str, before: int | None = None) -> int:
        return packed_bits(GEOMETRY, Budget.parse(budget).room_bytes(GEOMETRY, 3000), 32 * 3000, before, losses)

    assert [packed(budget) for budget in ("50%", "20%", "12%", "10%", "3%")] == bits
    assert packed("50%", 4) == 4


def test_values_lose_bits_before_keys_do() -> None:
    """Numbers of the demo model."""
    losses = Losses({4: 0.0001, 42: 0.0005, 2: 0.0033}, {0.5: 0.007, 0.35: 0.05, 0.2: 0.5, 0.1: 2.8})
    rooms = [Budget.parse(f"{share}%").room_bytes(GEOMETRY, 3000) for share in (51, 30, 20, 14, 10, 3)]
    assert [packed_bits(GEOMETRY, room, 32 * 3000, None, losses) for room in rooms] == [8, 4, 42, 42, 2, 2]
    # Precision never rises.
    assert [packed_bits(GEOMETRY, rooms[0], 32 * 3000, before, losses) for before in (4, 42, 2)] == [4, 42, 2]
    unknown = Losses({4: 0.0001, 2: 0.0033}, losses.eviction)
    assert packed_bits(GEOMETRY, rooms[2], 32 * 3000, None, unknown) == 4


def test_keys_that_do_not_bear_four_bits_are_stored_in_eight() -> None:
    """What such a model loses by its values alone is little, and there is room for more entries than in 8 bits."""
    losses = Losses({84: 0.001, 4: 3.6, 42: 3.7, 2: 5.0}, {0.5: 0.02, 0.35: 0.04, 0.2: 0.12, 0.1: 0.3})
    rooms = [Budget.parse(f"{share}%").room_bytes(GEOMETRY, 3000) for share in (51, 40, 20, 5)]
    assert [packed_bits(GEOMETRY, room, 32 * 3000, None, losses) for room in rooms] == [8, 84, 84, 84]
    assert [packed_bits(GEOMETRY, rooms[0], 32 * 3000, before, losses) for before in (84, 4)] == [84, 4]


def test_what_holds_nearly_all_and_rounds_little_comes_before_what_evicts() -> None:
    """Whatever the samples have lost by evicting; two precisions that were measured to lose less come before it."""
    eviction, mixed = {0.75: 0.0, 0.5: 0.0, 0.1: 1.0}, {0.2: 0.0, 0.1: 0.0}
    rooms = [Budget.parse(f"{share}%").room_bytes(GEOMETRY, 3000) for share in (26, 20, 14, 10)]
    for uneven, bits in ((SLIGHT_LOSS, [4, 42, 4, 2]), (SLIGHT_LOSS * 1.01, [4, 4, 4, 2])):
        losses = Losses({4: 0.0001, 42: uneven, 2: SLIGHT_LOSS * 1.01}, eviction, mixed)
        assert [packed_bits(GEOMETRY, room, 32 * 3000, None, losses) for room in rooms] == bits
        assert loses_less_mixed(GEOMETRY, rooms[1], 32 * 3000, bits[1], losses)


def test_more_bits_are_taken_where_they_lose_a_tenth_less() -> None:
    """A profile's samples are few, and fewer bits hold more entries."""
    room = Budget.parse("10%").room_bytes(GEOMETRY, 3000)
    lost = 0.01 + Losses({}, EVICTION).of_evicting(room / (32 * 3000 * EntrySize.of(GEOMETRY, 4).stored))
    for part, bits in ((0.88, 4), (0.92, 2)):
        losses = Losses({4: 0.01, 2: lost / part}, EVICTION)
        assert packed_bits(GEOMETRY, room, 32 * 3000, None, losses) == bits


def test_losses_lie_on_lines_between_the_measured_shares() -> None:
    losses = Losses({}, EVICTION)
    assert [losses.of_evicting(share) for share in EVICTION] == pytest.approx(list(EVICTION.values()))
    assert losses.of_evicting(0.425) == pytest.approx(0.0055)
    assert losses.of_evicting(0.05) == pytest.approx(2.0 + 1.7 / 2)
    assert losses.of_evicting(0.75) == pytest.approx(0.001 / 4)
    assert losses.of_evicting(1.0) == 0
    assert Losses({}, {0.5: 0.2, 0.1: 0.1}).of_evicting(0.1) == pytest.approx(0.2)


def test_a_row_is_whole_bytes() -> None:
    odd = KVGeometry(32, 32, 90, "bfloat16")
    assert packed_bits(odd, 100, 32 * 3000, None, Losses({4: 0.0, 2: 0.0})) == 4


def test_a_model_with_a_few_great_keys_is_not_stored_in_four_bits() -> None:
    """Keys with a constant part far larger than what tells them apart, as Qwen2's biases make them."""
    model, inputs = tiny.llama(layers=4), {"input_ids": tiny.text(200)}
    geometry = ModelIdentity.of("tiny", model.config, "float32").geometry
    answer = model.generate(**inputs, max_new_tokens=20, min_new_tokens=20, do_sample=False)[0, 200:]
    usual = divergences(model, geometry, inputs, answer, rounding.rounded_caches(geometry))[0]
    for layer in model.model.layers:
        projection = layer.self_attn.k_proj
        projection.bias = torch.nn.Parameter(torch.zeros(projection.out_features))
        with torch.no_grad():
            projection.bias[15::16] = 300.0
    great = divergences(model, geometry, inputs, answer, rounding.rounded_caches(geometry))[0]
    assert great[4] > 20 * usual[4]
    # It is the keys that suffer: with these in 8 bits most is as it was.
    assert great[84] < great[4] / 20


def test_two_precisions_are_taken_where_the_model_loses_less_by_them() -> None:
    def is_mixed(budget: str, losses: Losses) -> bool:
        room = Budget.parse(budget).room_bytes(GEOMETRY, 3000)
        bits = packed_bits(GEOMETRY, room, 32 * 3000, None, losses)
        return loses_less_mixed(GEOMETRY, room, 32 * 3000, bits, losses)

    measured = {"rounding": {4: 0.0001, 2: 0.008}, "eviction": {0.5: 0.0015, 0.2: 0.8}}
    losses = Losses(**measured, mixed={0.2: 0.002, 0.1: 0.003, 0.05: 0.5})
    # Above the largest share it is taken to lose no less, below the smallest nothing is known.
    assert [share for share in (26, 20, 15, 12, 10, 6, 4) if is_mixed(f"{share}%", losses)] == [12, 10]
    assert losses.of_mixing(0.075) == pytest.approx(0.2515)
    assert losses.of_mixing(0.04) == inf
    one = next(
        lost
        for lost in (step / 1e4 for step in range(1, 10_000))
        if not is_mixed("10%", Losses(**measured, mixed={0.1: lost}))
    )
    room = Budget.parse("10%").room_bytes(GEOMETRY, 3000)
    bits = packed_bits(GEOMETRY, room, 32 * 3000, None, losses)
    held = room / (32 * 3000 * EntrySize.of(GEOMETRY, bits).stored)
    # A quarter less at least: samples are few.
    assert one == pytest.approx(0.75 * (losses.rounding[bits] + losses.of_evicting(held)), abs=2e-4)
    assert not is_mixed("10%", Losses(**measured))


def test_caches_that_do_not_fit_together_are_followed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny.llama(layers=2), {"input_ids": tiny.text(100)}
    geometry = ModelIdentity.of("tiny", model.config, "float32").geometry
    answer = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)[0, 100:]

    def lost() -> dict[float, float]:
        caches = {share: PrefixKVCache(geometry, share, "h2o", None, None, "plain") for share in (0.5, 0.3, 0.1)}
        return divergences(model, geometry, inputs, answer, caches)[0]

    together = lost()
    # Of a whole cache of these tokens two are allowed at a time.
    room = 8 * 2 * 106 * geometry.token_bytes
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=room))
    seen = []
    of_rows = PrefixKVCache.of_rows
    monkeypatch.setattr(PrefixKVCache, "of_rows", lambda rows: seen.append(len(rows)) or of_rows(rows))
    assert lost() == pytest.approx(together, rel=1e-4)
    assert seen == [1, 2, 1]
