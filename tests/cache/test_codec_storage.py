"""What a codec stores: the bytes of a budget, entries rounded as its kernel rounds them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefixkv
from prefixkv.cache.capacity import Capacity
from prefixkv.errors import BudgetTooSmallError, OptionError
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import unpack
from prefixkv.methods.table import METHODS, get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import CODECS, get_codec, stored_name
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import TYPICAL_EVICTION, Losses
from prefixkv.profiles.config import PrefixConfig
from tests import tiny

GEOMETRY = KVGeometry(layers=4, kv_heads=2, head_dim=64, dtype="float16")
PACKED = [name for name, codec in CODECS.items() if codec.bits is not None and not codec.is_mixed]


@settings(deadline=None)
@given(
    method=st.sampled_from(sorted(name for name in METHODS if not METHODS[name].keeps_all)),
    codec=st.sampled_from(PACKED),
    budget=st.sampled_from(["100%", "53%", "20%", "3%", "40tok", "300KiB"]),
    tokens=st.integers(1, 3000),
)
def test_what_is_stored_never_takes_more_than_the_budget_and_its_floors(
    method: str, codec: str, budget: str, tokens: int
) -> None:
    capacity = Capacity(GEOMETRY, Budget.parse(budget), get_method(method), codec=CODECS[codec])
    bits = capacity.bits(tokens, None, is_evicted=False)
    assert stored_name(bits) == codec
    total, floor = capacity.total(tokens, bits), GEOMETRY.layers * min(tokens, METHODS[method].floor_tokens)
    allowed = capacity.budget.room_bytes(GEOMETRY, tokens)
    heads = METHODS[method].choosing_heads(GEOMETRY.kv_heads)
    stored_bytes = capacity.budget.price(EntrySize.of(GEOMETRY, bits, heads))
    assert total <= max(floor, GEOMETRY.layers * tokens)
    assert total * stored_bytes <= allowed or total == floor
    assert total == GEOMETRY.layers * tokens or (total + 1) * stored_bytes > allowed


@pytest.mark.parametrize("codec", PACKED)
def test_full_evicts_nothing_and_rounds_everything(codec: str) -> None:
    model, inputs = tiny.llava(), tiny.prompt(100)
    kept = {}
    for name in ("plain", codec):
        with prefixkv.compress(model, "100%", "full", name) as cache, torch.no_grad():
            model(**inputs, **cache.argument)
            model(input_ids=torch.tensor([[7]]), **cache.argument)
            kept[name] = cache
    usage, bits = kept[codec].usage(), CODECS[codec].bits
    assert bits is not None
    assert (usage.codec, kept["plain"].usage().codec) == (codec, "plain")
    assert {layer.kept_tokens for layer in usage.layers} == {usage.layers[0].seen_tokens}
    exact, packed = kept["plain"].layers[0], kept[codec].layers[0]
    for name, each in (("keys", key_bits(bits)), ("values", value_bits(bits))):
        whole, rows = (getattr(layer, name)[:, :, :101] for layer in (exact, packed))
        error = (unpack(rows, each, torch.float32) - whole).norm() / whole.norm()
        assert {8: 0, 4: 0.02, 2: 0.2}[each] < error < {8: 0.02, 4: 0.2, 2: 0.6}[each]
    assert usage.kept_bytes == 101 * 4 * CODECS[codec].entry_size(kept[codec].geometry).counted


@pytest.mark.parametrize(
    ("codec", "least"),
    [
        ("plain", "100%"),
        ("int8", "51.57%"),
        ("k8v4", "39.07%"),
        ("int4", "26.57%"),
        ("k4v2", "20.32%"),
        ("int2", "14.07%"),
    ],
)
def test_a_share_below_what_full_takes_is_refused_with_the_least_one(codec: str, least: str) -> None:
    for text in ("3%", f"{float(least[:-1]) - 0.01}%"):
        with pytest.raises(BudgetTooSmallError, match=f"give at least {least}$"):
            Capacity(GEOMETRY, Budget.parse(text), get_method("full"), codec=CODECS[codec])
    Capacity(GEOMETRY, Budget.parse(least), get_method("full"), codec=CODECS[codec])


@pytest.mark.parametrize("codec", CODECS)
def test_a_hard_limit_below_the_floors_is_refused_with_the_least_one(codec: str) -> None:
    with pytest.raises(BudgetTooSmallError) as caught:
        Capacity(GEOMETRY, Budget.parse("100B"), get_method("local"), codec=CODECS[codec])
    least = str(caught.value).rsplit("at least ", 1)[1]
    capacity = Capacity(GEOMETRY, Budget.parse(least), get_method("local"), codec=CODECS[codec])
    floor = GEOMETRY.layers * METHODS["local"].floor_tokens
    assert capacity.stored(0, CODECS[codec].bits) >= floor
    if codec in PACKED:
        assert capacity.budget.amount < floor * GEOMETRY.entry_bytes
    # Of each token that was read something is noted, for which there must be room, too.
    with pytest.raises(BudgetTooSmallError) as caught:
        capacity.check_floor(seen_tokens=100_000)
    enough = Budget.parse(str(caught.value).rsplit("at least ", 1)[1])
    later = Capacity(GEOMETRY, enough, get_method("local"), codec=CODECS[codec])
    assert later.total(100_000, CODECS[codec].bits) >= floor


@pytest.mark.parametrize(("codec", "head_dim"), [("int2", 66), ("int4", 65)])
def test_a_head_size_that_makes_no_whole_bytes_is_refused_in_one_line(codec: str, head_dim: int) -> None:
    odd = KVGeometry(layers=4, kv_heads=2, head_dim=head_dim, dtype="float16")
    with pytest.raises(OptionError, match=rf"multiple of \d, and the model's is {head_dim}: choose one of auto, plain"):
        Capacity(odd, Budget.parse("20%"), get_method("h2o"), codec=CODECS[codec])


def test_an_unknown_codec_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(OptionError, match="did you mean 'int4'"):
        get_codec("int_4")


def test_auto_stores_plain_but_for_a_method_that_packs() -> None:
    for name, method in METHODS.items():
        capacity = Capacity(GEOMETRY, Budget.parse("20%"), method)
        assert (capacity.bits(1000, None, is_evicted=False) is not None) == (name == "guided")


@pytest.mark.parametrize("codec", PACKED)
def test_a_configuration_holds_as_many_entries_as_its_codec_fits(codec: str) -> None:
    model = tiny.llava()
    identity = ModelIdentity.of("tiny", model.config, "float32")
    config = PrefixConfig.search("10%", identity, 204, allocation_name="uniform", method="h2o", codec=codec)
    with prefixkv.compress(model, config) as cache, torch.no_grad():
        model(**tiny.prompt(204), **cache.argument)
        usage = cache.usage()
        assert [layer.kept_tokens for layer in usage.layers] == config.kept_tokens()
    assert usage.codec == codec
    assert sum(config.kept_tokens()) > {8: 1.7, 84: 2.2, 4: 3.1, 42: 3.9, 2: 5.2}[CODECS[codec].bits] * 0.1 * 204 * 4
    assert usage.kept_bytes == config.budget["bytes"] <= 0.1 * usage.full_bytes


def test_what_a_prompt_may_say_of_its_bits_is_foreseen() -> None:
    """Room is reserved for whatever `guided` without a profile may come to store once it has tried the prompt."""
    lost = ({84: 0.001}, {84: 0.001, 4: 0.01}, {84: 0.001, 4: 0.01, 42: 0.02}, {84: 0.0, 4: 0.0, 42: 0.001, 2: 0.01})
    found = set()
    for share in range(3, 52):
        capacity = Capacity(GEOMETRY, Budget.parse(f"{share}%"), get_method("guided"))
        foreseen = {each.bits(1000, None, is_evicted=False) for each in capacity.outcomes}
        for rounding in lost:
            measured = replace(capacity, losses=Losses(rounding, TYPICAL_EVICTION))
            bits = measured.bits(1000, None, is_evicted=False)
            assert bits in foreseen, (share, rounding)
            found.add(bits)
    assert found == {8, 84, 4, 42, 2}
