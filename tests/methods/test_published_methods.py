"""Each published method against its own definition, written down from whole attention matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.methods import allocation, mixkv, triattention
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.expected import SINKS, expected
from prefixkv.methods.keydiff import distinct
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.rotary import Rotation
from prefixkv.transformers_compat import cache_argument
from tests import reference, tiny


def _prefill(model: Any, inputs: dict[str, torch.Tensor], cache: PrefixKVCache) -> None:
    with torch.no_grad():
        model(**inputs, **cache_argument(cache))


@pytest.mark.parametrize("keep_fraction", [0.7, 0.2])
def test_snapkv(keep_fraction: float) -> None:
    model, inputs = tiny.llava(), tiny.prompt(200)
    matrices = reference.whole_matrices(model, inputs)
    with prefixkv.compress(model, keep_fraction, "snapkv") as cache:
        _prefill(model, inputs, cache)
        for layer, matrix in enumerate(matrices):
            expected = reference.snapkv_positions(matrix, int(keep_fraction * 200), kv_heads=2)
            assert cache.kept_positions(layer)[0].tolist() == expected


def test_pyramidkv_is_snapkv_with_falling_shares() -> None:
    model, inputs = tiny.llava(layers=5), tiny.prompt(200)
    matrices = reference.whole_matrices(model, inputs)
    # Mean 40, last layer 40 / 20, first as far above the mean, equal steps.
    counts = [78, 59, 40, 21, 2]
    with prefixkv.compress(model, 0.2, "pyramidkv") as cache:
        _prefill(model, inputs, cache)
        for layer, (matrix, count) in enumerate(zip(matrices, counts, strict=True)):
            assert cache.kept_positions(layer)[0].tolist() == reference.snapkv_positions(matrix, count, kv_heads=2)


def test_a_pyramid_is_cut_off_where_the_first_layer_has_no_more() -> None:
    counts = allocation.pyramid(800, 5, 200, 1)
    assert counts == [200, 180, 160, 140, 120]


def test_keydiff_keeps_the_keys_that_point_elsewhere() -> None:
    """By hand: of the keys (3, 0), (2, 0), (0, 1) and (4, 3) the mean direction is (0.7, 0.4), of length 0.8062."""
    keys = torch.tensor([[[[3.0, 0.0], [2.0, 0.0], [0.0, 1.0], [4.0, 3.0]]]])
    evidence = Evidence(torch.zeros(1, 1, 4, 2), keys, 1.0)
    expected = [1 - 0.7 / 0.8062, 1 - 0.7 / 0.8062, 1 - 0.4 / 0.8062, 1 - (0.8 * 0.7 + 0.6 * 0.4) / 0.8062]
    assert distinct(evidence)[0, 0].tolist() == pytest.approx(expected, abs=1e-4)
    model, inputs = tiny.llava(), tiny.prompt(60)
    with prefixkv.compress(model, "10tok", "keydiff") as cache:
        _prefill(model, inputs, cache)
        kept = cache.kept_positions(1)[0].tolist()
    assert [heads[0] for heads in kept] == [59, 59]
    assert [len(set(heads)) for heads in kept] == [10, 10]


@pytest.mark.parametrize("seed", range(3))
def test_tgv(seed: int) -> None:
    model = tiny.llava(seed=seed)
    inputs = tiny.prompt(60, seed=seed)
    is_text = (inputs["input_ids"][0] != tiny.IMAGE_TOKEN).tolist()
    assert 0 < is_text.count(False) < 60
    share = (is_text.count(True) + 0.4 * is_text.count(False)) / 60
    expected = reference.tgv_positions(reference.whole_matrices(model, inputs), is_text, share, kv_heads=2)
    with prefixkv.compress(model, share, "tgv") as cache:
        _prefill(model, inputs, cache)
        kept = [[set(head) for head in cache.kept_positions(layer)[0].tolist()] for layer in range(4)]
    assert kept == expected


def test_tgv_without_pictures_is_uniform() -> None:
    assert allocation.text_first([0.0, 0.0, 0.0], 100, 50, 1, 50) == [34, 33, 33]


SHARES = (0.72, 0.205, 0.01, 0.5)
"""A configuration as the release ships them; 0.205 of 150 tokens asks for its rounding."""


def test_release_keeps_and_deletes_as_the_release_does() -> None:
    model, inputs = tiny.llava(), tiny.prompt(150)
    layers = [
        reference.ReleasedLayer(matrix, share)
        for matrix, share in zip(reference.whole_matrices(model, inputs), SHARES, strict=True)
    ]
    geometry = KVGeometry.of(model.config, "float32")
    cache = PrefixKVCache(geometry, 0.35875, "prefixkv-release", SHARES)
    positions: list[int] = []
    hook = model.get_decoder().rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: positions.append(int((kwargs.get("position_ids", args[-1])).max())),
        with_kwargs=True,
    )
    with attention.installed(model):
        _prefill(model, inputs, cache)
        assert [_kept(cache, layer) for layer in range(4)] == [layer.entries for layer in layers]
        for step in range(60):
            length_of_layer_0 = len(cache.kept_positions(0)[0, 0])
            before = [list(layer.entries) for layer in layers]
            _prefill(model, {"input_ids": torch.tensor([[step]])}, cache)
            # The position is the compressed length of the first layer, so that it is early, and comes twice.
            assert positions[-1] == length_of_layer_0
            for layer, entries in enumerate(before):
                # What attends: the entries that the release has left, and the new one.
                assert _kept(cache, layer) == [*entries, 150 + step]
                layers[layer].step()
            for layer in range(4):
                _delete_as_the_next_step_will(cache, layer, layers[layer])
    hook.remove()
    assert len(set(positions)) < len(positions)


def _kept(cache: PrefixKVCache, layer: int) -> list[int]:
    return sorted(cache.kept_positions(layer)[0, 0].tolist())


def _delete_as_the_next_step_will(cache: PrefixKVCache, layer: int, released: reference.ReleasedLayer) -> None:
    """The release deletes behind a step, the cache when the next one begins: it has settled on the same entry."""
    stored = cache.layers[layer]
    kept = stored.positions[0, 0, : stored.kept_tokens].tolist() if stored.positions is not None else []
    if cache.row.decode_limit(layer).allowed(stored.seen_tokens) == stored.kept_tokens:
        kept.remove(kept[int(stored.queue[0])])
    assert sorted(kept) == released.entries


def test_release_protects_only_the_first_and_the_last() -> None:
    """Hand-worked: 10 tokens, a fifth kept, all attention on tokens 3 and 7; banker's rounding of 8.0 forgotten."""
    curves = [[0.6, 1.0] + [1.0] * 8]
    assert allocation.release_known([0.2], 10, 2) == [2]
    assert allocation.release_known([0.25], 10, 2) == [2]
    assert allocation.release_known([0.35], 10, 2) == [4]
    assert allocation.release_known([0.0], 10, 2) == [2]
    assert allocation.release(curves, 0.5, 2) == [5]


def test_release_profile_mode_scales_and_truncates() -> None:
    """Hand-worked: 3 layers of 40, half forgotten; the threshold that forgets within 5 of 60 is scaled to 60."""
    steep = [min(1.0, (rank + 1) / 5) for rank in range(40)]
    even = [(rank + 1) / 40 for rank in range(40)]
    counts = allocation.release([steep, even, even], 0.5, 2)
    # At 0.375 the layers need 1, 14 and 14 entries beside the 2 protected ones: 37 + 24 + 24 forgotten, too many;
    # at 0.625: 3, 24 and 24: 35 + 14 + 14 = 63, within 5 of 60; each times 60 / 63, cut off: 33, 13 and 13.
    assert counts == [40 - 33, 40 - 13, 40 - 13]


@pytest.fixture
def in_short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are worked through in parts that a short one has several of."""
    monkeypatch.setattr("prefixkv.methods.expected.BLOCK", 16)
    monkeypatch.setattr("prefixkv.policy.look_ahead.IN_ONE_GO", 16)


def test_expected_is_the_mean_weight_that_normal_queries_give() -> None:
    """By hand, no rotation known: two queries (1, 0) and (3, 0), of mean (2, 0) and variance 1 on the first axis.

    A key (a, b) has the expected weight exp(s 2a + s^2 a^2 / 2), with the scale s = 0.5: exp(a + a^2 / 8). Shares are
    raised by 0.01.
    """
    keys = torch.tensor([[[[9.0, 9.0]] * SINKS + [[0.0, 1.0], [1.0, 5.0], [-1.0, 0.0]]]])
    values = torch.tensor([[[[1.0, 0.0]] * SINKS + [[3.0, 4.0], [0.0, 1.0], [2.0, 0.0]]]])
    evidence = Evidence(torch.tensor([[[[1.0, 0.0], [3.0, 0.0]]]]), keys, 0.5, values=values)
    weights = torch.tensor([0.0, 1 + 1 / 8, -1 + 1 / 8]).exp()
    lengths = torch.tensor([5.0, 1.0, 2.0])
    scores = expected(evidence)[0, 0]
    torch.testing.assert_close(scores[SINKS:], (weights / weights.sum() + 0.01) * lengths)
    assert scores[:SINKS].tolist() == [scores[SINKS:].max()] * SINKS


@pytest.mark.usefixtures("in_short_parts")
def test_expected_averages_over_the_places_behind_the_prompt() -> None:
    """Against the definition: queries before RoPE, their statistics, and the mean of the model's rotations."""
    model, inputs = tiny.llava(), tiny.prompt(40)
    queries, keys, values = reference.layer_inputs(model, inputs, layer=1)
    turn, weights = reference.mean_rotation(model, 40 + torch.arange(512)), []
    for head in range(4):
        before = queries[head, SINKS:]
        mean, covariance = before.mean(dim=0) @ turn, turn.T @ before.T.cov(correction=0) @ turn
        key = keys[head // 2, SINKS:]
        weights.append((key @ mean / 4 + ((key @ covariance) * key).sum(dim=1) / 32).softmax(dim=0))
    scores = (torch.stack(weights).view(2, 2, -1).mean(dim=1) + 0.01) * values.norm(dim=-1)[:, SINKS:]
    with prefixkv.compress(model, "12tok", "expected") as cache:
        _prefill(model, inputs, cache)
        kept = cache.kept_positions(1)[0]
    for head in range(2):
        ranked = (SINKS + scores[head, :-1].argsort(descending=True)).tolist()
        assert set(kept[head].tolist()) == {*range(SINKS), 39, *ranked[: 12 - SINKS - 1]}


def test_mixkv_mixes_by_how_alike_the_keys_are() -> None:
    """By hand: one query of zeros, which pays all 4 entries a quarter; it is the window, so the first 3 are measured.

    Values of length 1, 3 and 2 are 0, 1 and 0.5, then 0, 0.5 and 0.25, which is a quarter in the mean. Keys (1, 0),
    (2, 0), (0, 1) and (3, 0) have directions of mean (0.75, 0.25), so the third alone is unlike it: 0, 0 and 0.75. Two
    of them have a mean cosine of (4 x 0.625 - 1) / 3 = 0.5.
    """
    keys = torch.tensor([[[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]]])
    values = torch.tensor([[[[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 0.0]]]])
    evidence = Evidence(torch.zeros(1, 1, 1, 2), keys, 1.0, values=values)
    expected = [(0.25 + 0.0 + 0.0) / 2, (0.25 + 0.5 + 0.0) / 2, (0.25 + 0.25 + 0.75) / 2]
    assert mixkv.mixed(evidence)[0, 0, :3].tolist() == pytest.approx(expected, abs=1e-5)


def test_mixkv_keeps_the_window_and_chooses_of_the_rest() -> None:
    model, inputs = tiny.llava(), tiny.prompt(200)
    kept = {}
    for method in ("snapkv", "mixkv"):
        with prefixkv.compress(model, 0.2, method) as cache:
            _prefill(model, inputs, cache)
            kept[method] = [set(head) for head in cache.kept_positions(1)[0].tolist()]
    assert all(len(head) == 40 and head >= set(range(180, 200)) for head in kept["mixkv"])
    assert kept["mixkv"] != kept["snapkv"]


def test_triattention_adds_the_length_of_keys_where_queries_spread() -> None:
    """By hand, no rotation known, so that each element is a plane; two query heads of one kv head.

    Queries (1, 0) and (-1, 2) have the centre (0, 1) and mean lengths (1, 1): a key (a, b) scores b + |a|. Two of
    (0, -1) do not spread: -b. Keys (2, 0), (0, 3), (-1, -1) score 2, 3, 0 and 0, -3, 1: mean 5 / 3 and -2 / 3.
    """
    queries = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]], [[0.0, -1.0], [0.0, -1.0]]]])
    keys = torch.tensor([[[[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]]]])
    first, second = torch.tensor([1.0, 4.0, -5.0]) / 42**0.5, torch.tensor([2.0, -7.0, 5.0]) / 78**0.5
    scores = triattention.centred(Evidence(queries, keys, 1.0))[0, 0]
    torch.testing.assert_close(scores, torch.maximum(first, second) * 3**0.5)


@pytest.mark.usefixtures("in_short_parts")
@pytest.mark.parametrize("is_recorded", [False, True], ids=["own", "recorded"])
def test_triattention_is_a_trigonometric_series(is_recorded: bool) -> None:
    """Against the definition, in complex numbers; the recorded queries are the prompt's, so that both are the same."""
    model, inputs = tiny.llava(), tiny.prompt(40)
    queries, keys, _ = reference.layer_inputs(model, inputs, layer=1)
    turns = model.get_decoder().rotary_emb.inv_freq.double()
    before = torch.complex(*queries.double().chunk(2, dim=-1))
    key = torch.complex(*keys.double().chunk(2, dim=-1)).repeat_interleave(2, dim=0)
    centre, places = before.mean(dim=1, keepdim=True), torch.arange(40)[:, None]
    phases = (centre * key.conj() * torch.exp(1j * turns * places)).angle()
    series = torch.zeros(4, 40, dtype=torch.double)
    for distance in (2**power for power in range(17)):
        angles = turns * (40 + distance - places) + phases
        series += (centre.abs() * key.abs() * angles.cos()).sum(dim=-1) / 17
    series += ((before.abs().mean(dim=1, keepdim=True) - centre.abs()) * key.abs()).sum(dim=-1)
    levelled = (series - series.mean(dim=1, keepdim=True)) / series.std(dim=1, keepdim=True, correction=0)
    expected_scores = levelled.view(2, 2, 40).amax(dim=1).float()

    rotation = Rotation(model)
    look_ahead = LookAhead([queries] * 4 if is_recorded else (), torch.zeros(40, dtype=torch.int64), rotation)
    turned = rotation.turn(queries, torch.arange(40))[None]
    gathered = look_ahead.gathered(1, turned, position=40)
    scores = triattention.centred(Evidence(turned, keys[None], 0.25, gathered=gathered, rotation=rotation))[0]
    torch.testing.assert_close(scores, expected_scores, atol=2e-3, rtol=0)

    geometry = KVGeometry.of(model.config, "float32")
    cache = PrefixKVCache(geometry, "12tok", "triattention", look_ahead=look_ahead)
    with attention.installed(model):
        _prefill(model, inputs, cache)
    for head, kept in enumerate(cache.kept_positions(1)[0].tolist()):
        assert set(kept) == {39, *scores[head, :-1].argsort(descending=True)[:11].tolist()}
