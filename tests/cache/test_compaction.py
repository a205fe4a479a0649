"""When layers are cut does not change what they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention, chunk, compaction
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.methods import allocation
from prefixkv.methods.method import FEW
from prefixkv.methods.precedence import with_newest
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.curve_transfer import CurveTransfer
from prefixkv.policy.ranking import rank
from prefixkv.transformers_compat import cache_argument
from tests import reference, tiny

LAYERS, TOKENS = 8, 150


def _read(method: str, budget: str, geometry: KVGeometry, model: Any) -> PrefixKVCache:
    cache = PrefixKVCache(geometry, budget, method)
    with attention.installed(model), torch.no_grad():
        model(**tiny.prompt(TOKENS, seed=5), **cache_argument(cache))
    return cache


@pytest.mark.exhaustive(keep=12)
@pytest.mark.parametrize(("ahead", "arrives"), [(0, True), (1, True), (1, False), (3, False)])
@pytest.mark.parametrize("slack", [1, 2, 20])
@pytest.mark.parametrize(
    ("method", "budget"), [("prefixkv", "20%"), ("guided", "10%"), ("guided", "4%"), ("tgv", "30%")]
)
def test_lag_and_slack_do_not_change_what_is_kept(
    ahead: int, arrives: bool, slack: int, method: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether curves come at once or only when they are waited for, as from a GPU, and however much may be held."""
    model = tiny.llava(layers=LAYERS, seed=2)
    geometry = KVGeometry.of(model.config.get_text_config(), "float32")
    # As if no memory had to be saved: every layer is whole until all have read.
    monkeypatch.setattr(compaction, "SLACK", 0.01)
    expected = _read(method, budget, geometry, model)
    cuts: list[int] = []
    cut = compaction.Compaction._cut
    monkeypatch.setattr(
        compaction.Compaction, "_cut", lambda self, *arguments: (cuts.append(1), cut(self, *arguments))[1]
    )
    monkeypatch.setattr(compaction, "SLACK", slack)
    begin: Any = compaction.Compaction
    monkeypatch.setattr(chunk, "Compaction", lambda *arguments: begin(*arguments[:-2], ahead))
    monkeypatch.setattr(CurveTransfer, "is_there", arrives)
    found = _read(method, budget, geometry, model)
    assert method == "tgv" or cuts
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.positions is not None
        assert one.keys is not None
        assert other.positions is not None
        assert other.keys is not None
        assert one.positions.equal(other.positions)
        assert one.keys.equal(other.keys)
        assert one.queue.equal(other.queue)


@pytest.mark.parametrize("method", ["prefixkv", "guided", "tgv", "prefixkv-release"])
@pytest.mark.parametrize(("spare", "is_cut_early"), [(0, False), (-1, True)])
def test_a_small_chunk_is_cut_once(
    method: str, spare: int, is_cut_early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers are ranked together, before the pass has ended, and keep what they keep one by one."""
    model = tiny.llava(layers=LAYERS, seed=2)
    geometry = KVGeometry.of(model.config.get_text_config(), "float32")
    expected = _read(method, "5%", geometry, model)
    cuts: list[int] = []
    cut = compaction.Compaction._cut
    monkeypatch.setattr(
        compaction.Compaction, "_cut", lambda self, *arguments: (cuts.append(1), cut(self, *arguments))[1]
    )
    begin: Any = compaction.Compaction
    ranked: list[bool] = []
    finish = compaction.Compaction.finish

    def watched_finish(self: compaction.Compaction) -> None:
        ranked.append(all(layer.ranks is not None or layer._order is not None for layer in self._layers))
        finish(self)

    monkeypatch.setattr(compaction.Compaction, "finish", watched_finish)
    small = TOKENS * geometry.token_bytes + spare
    monkeypatch.setattr(chunk, "Compaction", lambda *arguments: begin(*arguments[:-2], 1, small))
    found = _read(method, "5%", geometry, model)
    assert bool(cuts) == (is_cut_early and method in ("prefixkv", "guided"))
    assert ranked == [True] or is_cut_early
    assert [layer.kept_tokens for layer in found.layers] == [layer.kept_tokens for layer in expected.layers]
    for one, other in zip(found.layers, expected.layers, strict=True):
        assert one.keys is not None
        assert other.keys is not None
        assert one.keys.equal(other.keys)


def test_guided_shares_are_mostly_even_and_partly_by_one_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llava(layers=LAYERS, seed=2)
    geometry = KVGeometry.of(model.config.get_text_config(), "float32")
    seen: list[torch.Tensor] = []

    def recorded(*arguments: Any) -> Any:
        result = score(*arguments)
        seen.append(result[0].clone())
        return result

    score = chunk.score
    monkeypatch.setattr(chunk, "score", recorded)
    cache = PrefixKVCache(geometry, "4%", "guided")
    with attention.installed(model), torch.no_grad():
        model(**tiny.prompt(TOKENS, seed=5), **cache_argument(cache))
    total = cache.row.capacity.total(TOKENS, cache.row.bits)
    newest, even = cache.method.newest_len(total // LAYERS), allocation.uniform(total, LAYERS)
    curves = [rank(with_newest(importance, newest), 0, 1).curves()[0].tolist() for importance in seen]
    floor = allocation.mixed_floor(2 * FEW, min(even), 1)
    expected = allocation.mixed(even, allocation.prefix(curves, total, floor))
    assert [layer.kept_tokens for layer in cache.layers] == expected
    assert sum(expected) == total


def test_no_more_is_held_than_the_slack_and_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, most = tiny.llava(layers=LAYERS, seed=2), 0
    geometry = KVGeometry.of(model.config.get_text_config(), "float32")
    take_in = compaction.Compaction.take_in

    def watched(self: compaction.Compaction, index: int, pictures: torch.Tensor | None) -> None:
        nonlocal most
        take_in(self, index, pictures)
        most = max(most, sum(layer.kept_tokens for layer in self._layers))

    monkeypatch.setattr(compaction.Compaction, "take_in", watched)
    cache = _read("prefixkv", "20%", geometry, model)
    total = sum(layer.kept_tokens for layer in cache.layers)
    assert total == LAYERS * TOKENS // 5
    assert total < most <= total * 3 // 2 + TOKENS


def test_held_entries_share_no_memory() -> None:
    """A layer that is held must not keep a larger tensor alive, of which it is a part."""
    layer = CompressedLayer(16, torch.float32)
    whole = torch.randn(1, 2, 10, 48)
    layer.arrive(*whole.split([16, 16, 16], dim=-1)[:2])
    layer.hold(torch.rand(1, 2, 10), 10)
    assert layer.arriving is not None
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in layer.arriving)
    assert layer.arriving[0].equal(whole[..., :16])


def test_what_waits_for_the_end_of_a_pass_is_done_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the model's head, so that a device has work meanwhile; at once where nobody tells when a pass ends."""
    model, done = tiny.llama(), list[str]()
    finish = CacheRow._finish
    monkeypatch.setattr(CacheRow, "_finish", lambda row: (done.append("settled"), finish(row)))
    model.lm_head.register_forward_hook(lambda *_: done.append("head"))
    with torch.no_grad(), prefixkv.compress(model, "30%", "h2o") as cache:
        model(input_ids=tiny.text(40), **cache_argument(cache))
        assert done == ["head", "settled"]
        model.model(input_ids=tiny.text(9), **cache_argument(cache))
    assert done == ["head", "settled", "settled"]


def test_a_share_cut_in_steps_is_that_of_the_whole_matrix() -> None:
    model, inputs = tiny.llava(layers=LAYERS, seed=4), tiny.prompt(TOKENS, seed=4)
    expected = reference.prefixkv_positions(reference.whole_matrices(model, inputs), 0.1)
    with prefixkv.compress(model, 0.1, "prefixkv") as cache:
        with torch.no_grad():
            model(**inputs, **cache_argument(cache))
        assert [cache.kept_positions(layer)[0, 0].tolist() for layer in range(LAYERS)] == expected
