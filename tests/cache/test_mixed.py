"""Entries of one layer in two precisions: which are fine, what they take, and that all ways to read them agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention, compaction
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row_step import RowSteps
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.engine.admission import Footprint
from prefixkv.errors import OptionError
from prefixkv.evaluation.cells import Cell
from prefixkv.kernels.packed_row import key_bits, mean_bits, value_bits
from prefixkv.kernels.packing import pack, unpack
from prefixkv.methods.table import METHODS, get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import CODECS
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import FINE_OF, fine_tokens
from prefixkv.profiles.config import PrefixConfig
from prefixkv.transformers_compat import cache_argument
from tests import tiny

TOKENS = 150
EVICTING = sorted(name for name, method in METHODS.items() if not method.keeps_all)


def _read(method: str, budget: str, codec: str = "mixed", layers: int = 4) -> tuple[Any, PrefixKVCache]:
    model = tiny.llava(layers=layers, seed=2)
    cache = PrefixKVCache(KVGeometry.of(model.config.get_text_config(), "float32"), budget, method, codec=codec)
    with attention.installed(model), torch.no_grad():
        model(**tiny.prompt(TOKENS, seed=5), **cache_argument(cache))
    return model, cache


def _step(model: Any, cache: PrefixKVCache, token: int) -> torch.Tensor:
    """Logits of a step in which every row reads the same token, (rows, vocabulary)."""
    with attention.installed(model), torch.no_grad():
        ids = torch.full((len(cache.rows), 1), token)
        logits: torch.Tensor = model(input_ids=ids, **cache_argument(cache)).logits[:, -1]
    return logits


@pytest.mark.exhaustive(keep=14)
@pytest.mark.parametrize("budget", ["45%", "25%", "4%", "60tok", "20KiB"])
@pytest.mark.parametrize("method", EVICTING)
def test_a_budget_is_held_while_a_prompt_is_read_and_an_answer_is_given(method: str, budget: str) -> None:
    model, cache = _read(method, budget)
    bits = cache.row.bits
    assert bits is not None
    release = len(cache.layers) * 2 * cache.geometry.counted_bytes if METHODS[method].rounding == "release" else 0
    for token in range(12):
        usage = cache.usage()
        # Where more bits would hold hardly any of the entries, all are in the fewest.
        is_mixed = budget not in ("4%", "20KiB")
        assert usage.codec == ("mixed" if is_mixed else "int2" if budget == "4%" else "k4v2")
        assert (mean_bits(bits) < usage.bits < mean_bits(FINE_OF[bits])) == is_mixed
        room = cache.budget.room_bytes(cache.geometry, cache.seen_tokens)
        assert usage.kept_bytes <= room + release
        assert cache.row.stored_bytes == usage.kept_bytes
        if cache.budget.kind == "bytes":
            assert usage.allocated_bytes <= cache.budget.amount
        _step(model, cache, token)
    fine, coarse = (EntrySize.of(cache.geometry, each).counted for each in (FINE_OF[bits], bits))
    for layer, stored in zip(cache.usage().layers, cache.layers, strict=True):
        assert layer.fine_tokens == stored.fine.kept_tokens < layer.kept_tokens
        assert (layer.fine_tokens > 0) == is_mixed
        assert layer.bytes == fine * layer.fine_tokens + coarse * (layer.kept_tokens - layer.fine_tokens)
        assert stored.kept_positions.shape[-1] == layer.kept_tokens
        for head in stored.kept_positions[0]:
            assert len(set(head.tolist())) == layer.kept_tokens


@pytest.mark.parametrize("method", ["guided", "h2o", "prefixkv", "snapkv"])
def test_the_fine_run_has_the_most_important_entries_rounded_once(method: str) -> None:
    _, plain = _read(method, "100%", "plain")
    _, cache = _read(method, "20%")
    for whole, layer in zip(plain.layers, cache.layers, strict=True):
        for head in range(layer.positions.shape[1]):
            fine, coarse = layer.fine.importance[0, head], layer.importance[0, head, : layer.kept_tokens]
            # The newest entry is protected, whatever its importance.
            is_old = layer.fine.positions[0, head] < TOKENS - 1
            least = METHODS[method].sink_tokens + METHODS[method].recent_tokens
            assert (fine[is_old] < coarse.max()).sum() <= least
        for run, bits in ((layer.fine, FINE_OF[cache.row.bits]), (layer, cache.row.bits)):
            for name, each in (("keys", key_bits(bits)), ("values", value_bits(bits))):
                kept, vectors = getattr(run, name)[:, :, : run.kept_tokens], getattr(whole, name)
                places = run.positions[..., : run.kept_tokens].expand(1, kept.shape[1], -1)[..., None]
                exact = vectors.gather(2, places.expand(-1, -1, -1, vectors.shape[3]))
                assert torch.equal(kept, pack(exact, each))


@pytest.mark.parametrize("method", ["guided", "h2o"])
def test_what_is_read_of_both_runs_stands_at_its_positions_also_when_they_are_one_again(method: str) -> None:
    _, plain = _read(method, "100%", "plain")
    _, cache = _read(method, "20%")
    for whole, layer in zip(plain.layers, cache.layers, strict=True):
        fine, positions = layer.fine.kept_tokens, layer.kept_positions.clone()
        importance = torch.cat([run.importance[..., : run.kept_tokens] for run in (layer.fine, layer)], dim=-1)
        layer.unite()
        assert torch.equal(layer.kept_positions, positions)
        assert torch.equal(layer.importance, importance)
        places = positions.expand(1, layer.keys.shape[1], -1)[..., None]
        runs = FINE_OF[cache.row.bits], cache.row.bits
        of_keys, of_values = [key_bits(each) for each in runs], [value_bits(each) for each in runs]
        for found, exact, widths in ((layer.keys, whole.keys, of_keys), (layer.values, whole.values, of_values)):
            exact = exact.gather(2, places.expand(-1, -1, -1, exact.shape[3]))
            rounded = [
                unpack(pack(part, bits), bits, part.dtype)
                for part, bits in zip(exact.split([fine, exact.shape[2] - fine], 2), widths, strict=True)
            ]
            torch.testing.assert_close(found, torch.cat(rounded, dim=2))


@pytest.mark.parametrize("method", ["guided", "prefixkv", "tgv"])
def test_when_layers_are_cut_does_not_change_what_they_store(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cache = _read(method, "20%", layers=8)
    monkeypatch.setattr(compaction, "SLACK", 0.01)
    _, whole = _read(method, "20%", layers=8)
    assert whole.row.fine > 0
    for one, other in zip(cache.layers, whole.layers, strict=True):
        parts = [(run.keys, run.values, run.positions, run.importance) for run in (one, one.fine, other, other.fine)]
        for mine, its in zip((*parts[0], *parts[1]), (*parts[2], *parts[3]), strict=True):
            assert torch.equal(mine, its)


def test_a_layer_with_a_small_share_has_a_shorter_fine_run() -> None:
    _, cache = _read("h2o", "20%")
    layer = cache.layers[0]
    fine, kept = layer.fine.positions.clone(), layer.stored_tokens
    layer.fill(prefixkv.kernels.gathering.gather([layer.shrunk(layer.fine.kept_tokens + 5)[0]], None)[0])
    assert (layer.kept_tokens, layer.fine.kept_tokens) == (5, fine.shape[-1])
    move, _ = layer.shrunk(7)
    layer.fill(prefixkv.kernels.gathering.gather([move], None)[0])
    assert (layer.kept_tokens, layer.fine.kept_tokens) == (1, 6)
    assert torch.equal(layer.fine.positions, fine[..., :6])
    assert kept > 7


def test_a_step_of_one_row_and_of_several_reads_what_is_unpacked() -> None:
    model, cache = _read("guided", "20%")
    snapshot = CacheSnapshot.take(cache.row)
    rows = [cache.row.emptied() for _ in range(4)]
    for row in rows:
        snapshot.restore(row, torch.device("cpu"))
    alone, together = PrefixKVCache.of_rows(rows[:1]), PrefixKVCache.of_rows(rows[1:3])
    expected = PrefixKVCache.of_rows(rows[3:])
    logits = [_step(model, each, 3) for each in (alone, together)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowSteps, "can_attend", lambda *parts: False)
        whole = _step(model, expected, 3)
    for each in logits:
        assert torch.allclose(each, whole.expand_as(each), atol=1e-5)


def test_a_later_turn_scores_both_runs_and_an_undone_one_leaves_them_as_they_were() -> None:
    model, cache = _read("guided", "20%")
    snapshot = CacheSnapshot.take(cache.row)
    before = [tensor.clone() for layer in cache.layers for tensor in (*layer.fine.tensors, layer.keys, layer.positions)]
    with attention.installed(model), torch.no_grad():
        model(input_ids=torch.arange(40)[None], **cache_argument(cache))
    assert cache.usage().kept_bytes <= cache.budget.room_bytes(cache.geometry, TOKENS + 40)
    assert any((layer.fine.positions >= TOKENS).any() for layer in cache.layers)
    snapshot.restore(cache.row, torch.device("cpu"))
    after = [tensor for layer in cache.layers for tensor in (*layer.fine.tensors, layer.keys, layer.positions)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("bits", [4, 2])
def test_packing_what_was_packed_loses_hardly_more(bits: int) -> None:
    """So a later turn may pack all entries anew, those of the earlier ones among them."""
    vectors = torch.randn(2000, 64, generator=torch.Generator().manual_seed(3))
    once = unpack(pack(vectors, bits), bits, torch.float32)
    twice = unpack(pack(once, bits), bits, torch.float32)
    lost, lost_twice = ((each - vectors).square().sum() for each in (once, twice))
    assert lost < lost_twice + 1e-3
    assert lost_twice < 1.02 * lost


def test_the_fine_share_falls_with_what_more_bits_would_hold() -> None:
    # 1,000 entries of 4 layers, of which more bits hold all, three quarters, half, a quarter, a tenth, none.
    rooms = (90_000, 68_000, 51_000, 34_000, 17_000, 6_800, 0)
    assert [fine_tokens(room, 1000, 4, 68, 42) for room in rooms] == [250, 250, 70, 0, 0, 0, 0]
    assert [fine_tokens(room, 1000, 4, 68, 2) for room in rooms] == [250, 250, 131, 24, 0, 0, 0]


def test_the_coarse_entries_lose_bits_of_their_keys_only_where_a_budget_holds_few() -> None:
    geometry = KVGeometry(layers=4, kv_heads=2, head_dim=64, dtype="float16")
    found = {}
    for budget in ("30%", "20%", "16%", "15%", "10%", "3%"):
        capacity = Capacity(geometry, Budget.parse(budget), get_method("h2o"), codec=CODECS["mixed"])
        found[budget] = capacity.precision(1000, None, is_evicted=False)
        # What is in few bits already gains nothing by more.
        assert capacity.precision(1000, 2, is_evicted=True)[0] == 2
    assert {budget: bits for budget, (bits, _) in found.items()} == {
        "30%": 42, "20%": 42, "16%": 42, "15%": 2, "10%": 2, "3%": 2,
    }  # fmt: skip
    fine = [count for _, count in found.values()]
    assert fine[0] == 999
    assert 0 < fine[1] < fine[0]
    assert fine[-1] == 0


def test_a_budget_up_to_what_the_fine_entries_take_is_no_more_than_that() -> None:
    """Of heads of 64 all in 4 bits take 26.6 %."""
    geometry = KVGeometry(layers=4, kv_heads=2, head_dim=64, dtype="float16")
    asked = {budget: Cell("h2o", budget, "mixed").asked_fraction(geometry, 1000) for budget in ("10%", "25%", "60%")}
    assert asked == {"10%": 0.1, "25%": 0.25, "60%": pytest.approx(0.265625)}


def test_an_engine_reserves_what_two_precisions_take() -> None:
    geometry = KVGeometry(layers=4, kv_heads=2, head_dim=64, dtype="float16")
    for budget in ("20%", "10%", "2MiB"):
        capacity = Capacity(geometry, Budget.parse(budget), get_method("h2o"), codec=CODECS["mixed"])
        reserved = Footprint.of(capacity, 1000, 50).running
        bits, fine = capacity.precision(1000, None, is_evicted=False)
        assert bits is not None
        assert fine > 0
        large, small = (EntrySize.of(geometry, each).allocated for each in (FINE_OF[bits], bits))
        total = capacity.total(1000, bits, fine)
        assert 4 * fine * large + (total - 4 * fine) * small <= reserved


def test_what_cannot_be_mixed_is_refused_in_one_line() -> None:
    geometry = KVGeometry(layers=4, kv_heads=2, head_dim=64, dtype="float16")
    for budget, method in (("100%", "h2o"), ("20%", "full")):
        with pytest.raises(OptionError, match="nothing says which these are: choose another codec"):
            Capacity(geometry, Budget.parse(budget), get_method(method), codec=CODECS["mixed"])
    identity = ModelIdentity.of("tiny", tiny.llava().config, "float32")
    with pytest.raises(OptionError, match="choose another codec, or give the budget itself"):
        PrefixConfig.search("10%", identity, 204, allocation_name="uniform", method="h2o", codec="mixed")
