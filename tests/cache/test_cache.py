"""What the cache keeps, and that it never holds more than it may."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv.generation.forward import read_tokens
from prefixkv.methods.allocation import prefix
from prefixkv.methods.table import METHODS
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.selection import cumulative_importance
from prefixkv.transformers_compat import cache_argument, cache_in
from tests import reference, tiny


def prefill(model: Any, inputs: dict[str, torch.Tensor], cache: PrefixKVCache) -> None:
    with torch.no_grad():
        model(**inputs, **cache_argument(cache))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("keep_fraction", [0.5, 0.2, 0.1])
def test_prefixkv_equals_whole_matrix_reference(seed: int, keep_fraction: float) -> None:
    model, inputs = tiny.llava(layers=5, seed=seed), tiny.prompt(150, seed=seed)
    expected = reference.prefixkv_positions(reference.whole_matrices(model, inputs), keep_fraction)
    with prefixkv.compress(model, keep_fraction, "prefixkv") as cache:
        prefill(model, inputs, cache)
        assert [cache.kept_positions(layer)[0, 0].tolist() for layer in range(5)] == expected
    assert len({len(positions) for positions in expected}) > 1


@pytest.mark.parametrize("keep_fraction", [0.5, 0.2])
def test_h2o_equals_whole_matrix_reference(keep_fraction: float) -> None:
    model, inputs = tiny.llava(), tiny.prompt(101)
    expected = reference.h2o_positions(reference.whole_matrices(model, inputs), keep_fraction, kv_heads=2)
    with prefixkv.compress(model, keep_fraction, "h2o") as cache:
        prefill(model, inputs, cache)
        assert [cache.kept_positions(layer)[0].tolist() for layer in range(4)] == expected


def test_local_keeps_sinks_and_newest() -> None:
    model, inputs = tiny.llava(), tiny.prompt(100)
    with prefixkv.compress(model, "10tok", "local") as cache:
        prefill(model, inputs, cache)
        assert cache.kept_positions(2)[0, 0].tolist() == [0, 1, 2, 3, *range(94, 100)]
        for step in range(20):
            prefill(model, {"input_ids": torch.tensor([[step]])}, cache)
        assert sorted(cache.kept_positions(2)[0, 0].tolist()) == [0, 1, 2, 3, *range(114, 120)]


def test_kept_entries_are_the_models_own() -> None:
    """Every stored key and value is bit for bit the stock cache's at that position."""
    model, inputs = tiny.llava(), tiny.prompt(80)
    with torch.no_grad():
        stock = cache_in(model(**inputs))
    with prefixkv.compress(model, "30%", "h2o") as cache:
        prefill(model, inputs, cache)
        for index, layer in enumerate(cache.layers):
            positions = cache.kept_positions(index)[..., None].expand(-1, -1, -1, 16)
            assert layer.keys.equal(stock.layers[index].keys.gather(2, positions))
            assert layer.values.equal(stock.layers[index].values.gather(2, positions))


def test_layer_by_layer_search_equals_global_search() -> None:
    """Shrinking layer after layer ends where one search over all layers at once would."""
    model, inputs = tiny.llava(layers=6, seed=3), tiny.prompt(200)
    matrices = reference.whole_matrices(model, inputs)
    curves = [cumulative_importance(matrix.mean(dim=0).sum(dim=0)[None, None]).tolist() for matrix in matrices]
    for budget, total in (("25%", 300), ("50tok", 300)):
        with prefixkv.compress(model, budget, "prefixkv") as cache:
            prefill(model, inputs, cache)
            assert [layer.kept_tokens for layer in cache.layers] == prefix(curves, total, 2)


@pytest.mark.exhaustive(keep=4)
@pytest.mark.parametrize("method", ["local", "h2o", "prefixkv"])
@pytest.mark.parametrize("share", [1.5, 0.4, 0.1])
def test_hard_limit_holds_at_every_layer_and_step(method: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt, 200 new tokens and a second turn: all that layers store, notes too, never exceeds the bytes given."""
    model, inputs = tiny.llava(), tiny.prompt(120)
    limit = int(share * 120 * 4 * 2 * 2 * 16 * 4)
    measured: list[int] = []
    with prefixkv.compress(model, f"{limit}B", method) as cache:
        for name in ("keep", "write", "fill"):
            original = getattr(CompressedLayer, name)

            def watched(layer: CompressedLayer, *args: Any, original: Any = original) -> Any:
                result = original(layer, *args)
                measured.append(
                    sum(
                        tensor.untyped_storage().nbytes()
                        for each in cache.layers
                        if each.arriving is None
                        for tensor in (each.keys, each.values, each.positions, each.importance, each.order)
                        if tensor is not None
                    )
                )
                return result

            monkeypatch.setattr(CompressedLayer, name, watched)
        model.generate(**inputs, **cache_argument(cache), max_new_tokens=200, min_new_tokens=200, do_sample=False)
        prefill(model, {"input_ids": tiny.text(40)}, cache)
        for _ in range(30):
            prefill(model, {"input_ids": tiny.text(1)}, cache)
        assert len(measured) > 4 * 230
        assert max(measured) <= limit
        size = EntrySize.of(cache.geometry, None, METHODS[method].choosing_heads(2)).allocated
        assert measured[-1] < cache.usage().allocated_bytes == bytes_of(cache.row) <= limit
        assert limit - measured[-1] < size * 4 + 190 + 8


def bytes_of(row: CacheRow) -> int:
    """Bytes of all tensors that can be reached from a row, by their storages; a profile's queries are not the row's."""
    storages, seen, left = {}, set(), [value for name, value in vars(row).items() if name != "look_ahead"]
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        elif isinstance(thing, dict):
            left += thing.values()
        elif isinstance(thing, (list, tuple)):
            left += thing
        elif hasattr(thing, "__dict__") and not isinstance(thing, type):
            left += vars(thing).values()
    return sum(storages.values())


@pytest.mark.parametrize("codec", ["plain", "int4"])
@pytest.mark.parametrize("method", ["full", "tgv", "guided", "prefixkv-release"])
def test_allocated_bytes_are_those_of_all_tensors(method: str, codec: str) -> None:
    model, budget = tiny.llava(), "100%" if method == "full" else "30%"
    with prefixkv.compress(model, budget, method, codec) as cache:
        for inputs in (tiny.prompt(120), {"input_ids": tiny.text(1)}, {"input_ids": tiny.text(9)}):
            prefill(model, inputs, cache)
            assert cache.usage().allocated_bytes == bytes_of(cache.row) > cache.usage().kept_bytes


@pytest.mark.parametrize("method", ["local", "h2o", "prefixkv"])
def test_fraction_is_of_prompt_and_generated_tokens(method: str) -> None:
    model, inputs = tiny.llava(), tiny.prompt(300)
    with prefixkv.compress(model, "20%", method) as cache:
        prefill(model, inputs, cache)
        assert sum(layer.kept_tokens for layer in cache.layers) == 240
        for step in range(1, 101):
            prefill(model, {"input_ids": tiny.text(1, seed=step)}, cache)
            kept = sum(layer.kept_tokens for layer in cache.layers)
            assert 0.2 * 4 * (300 + step) - 4 <= kept <= 0.2 * 4 * (300 + step)
        usage = cache.usage()
        assert usage.full_bytes == 400 * cache.geometry.counted_token_bytes
        assert usage.kept_bytes == kept * cache.geometry.counted_bytes
        size = EntrySize.of(cache.geometry, None, METHODS[method].choosing_heads(2)).allocated
        assert usage.allocated_bytes <= 1.05 * kept * size + cache.geometry.token_bytes


def test_prefixkv_evicts_the_releases_entries_while_decoding() -> None:
    """From 25 before the end of the kept prompt on, oldest first; the layer grows by its own share."""
    model, inputs = tiny.llava(), tiny.prompt(300)
    with prefixkv.compress(model, "20%", "prefixkv") as cache:
        prefill(model, inputs, cache)
        kept = [cache.kept_positions(layer)[0, 0].tolist() for layer in range(4)]
        for step in range(1, 41):
            prefill(model, {"input_ids": tiny.text(1, seed=step)}, cache)
        for layer, prompt_kept in enumerate(kept):
            count = len(prompt_kept)
            start = count - 25 if count > 25 else count // 2
            limit = count + 40 * count // 300
            survivors = (prompt_kept[start:] + list(range(300, 340)))[-(limit - start) :]
            assert sorted(cache.kept_positions(layer)[0, 0].tolist()) == prompt_kept[:start] + survivors


def test_later_turn_keeps_budget_and_positions() -> None:
    model, inputs = tiny.llava(), tiny.prompt(100)
    with prefixkv.compress(model, "30%", "prefixkv") as cache:
        prefill(model, inputs, cache)
        for step in range(50):
            prefill(model, {"input_ids": tiny.text(1, seed=step)}, cache)
        first = [set(cache.kept_positions(layer)[0, 0].tolist()) for layer in range(4)]
        prefill(model, {"input_ids": tiny.text(50)}, cache)
        assert cache.get_seq_length() == 200
        assert sum(layer.kept_tokens for layer in cache.layers) == 240
        for layer in range(4):
            positions = cache.kept_positions(layer)[0, 0].tolist()
            assert positions == sorted(set(positions))
            assert (positions[0], positions[-1]) == (0, 199)
            assert {position for position in positions if position < 150} <= first[layer]


def test_batch_rows_choose_for_themselves() -> None:
    model = tiny.llama(layers=3)
    rows = tiny.text(64, batch=2)
    with prefixkv.compress(model, "25%", "h2o") as cache:
        prefill(model, {"input_ids": rows}, cache)
        together = cache.kept_positions(1)
    for row in range(2):
        with prefixkv.compress(model, "25%", "h2o") as cache:
            prefill(model, {"input_ids": rows[row : row + 1]}, cache)
            assert cache.kept_positions(1)[0].equal(together[row])


def test_refusals_are_clear() -> None:
    geometry = KVGeometry(4, 2, 16, "float32")
    with pytest.raises(BudgetTooSmallError, match="at least"):
        PrefixKVCache(geometry, "1KiB", "prefixkv")
    model, inputs = tiny.llava(), tiny.prompt()
    with (
        prefixkv.compress(model, "50tok", "full") as cache,
        pytest.raises(BudgetTooSmallError, match="keeps everything"),
    ):
        prefill(model, inputs, cache)
    with prefixkv.compress(model) as cache, pytest.raises(PrefixKVError, match="num_beams=1"):
        model.generate(**inputs, **cache_argument(cache), num_beams=2, max_new_tokens=3)
    for change in (
        lambda cache: cache.batch_repeat_interleave(2),
        lambda cache: cache.batch_select_indices(torch.tensor([0])),
    ):
        with prefixkv.compress(model) as cache, pytest.raises(PrefixKVError, match=r"rows .* copy\.deepcopy"):
            change(cache)
    with prefixkv.compress(model) as cache, pytest.raises(PrefixKVError, match=r"cropped.* copy\.deepcopy"):
        cache.crop(-1)
    with torch.no_grad(), pytest.raises(PrefixKVError, match=r"with prefixkv\.compress"):
        model(**inputs, **cache_argument(PrefixKVCache(geometry)))


def test_reset_frees_everything() -> None:
    model = tiny.llava()
    with prefixkv.compress(model) as cache:
        prefill(model, tiny.prompt(), cache)
        cache.reset()
        assert cache.usage().allocated_bytes == 0
        prefill(model, tiny.prompt(), cache)
        assert cache.get_seq_length() == 60


@pytest.mark.parametrize("method", ["full", "h2o"])
def test_buffers_grow_ahead_and_not_with_every_token(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that rises token by token once made every step copy the whole layer."""
    model, copies = tiny.llama(), []
    grow = CompressedLayer._grow
    monkeypatch.setattr(
        CompressedLayer, "_grow", lambda layer, capacity: (copies.append(capacity), grow(layer, capacity))[1]
    )
    with prefixkv.compress(model, "100%" if method == "full" else "50%", method) as cache:
        prefill(model, {"input_ids": tiny.text(320)}, cache)
        for step in range(40):
            prefill(model, {"input_ids": tiny.text(1, seed=step)}, cache)
    assert 2 <= len(copies) <= 2 * 8


def test_rows_read_apart_decode_as_if_read_together() -> None:
    """A view of rows of other lengths, budgets and methods: each stores and answers what it does alone."""
    model = tiny.llama()
    geometry = KVGeometry.of(model.config, "float32")
    kinds = [("30%", "h2o"), ("20tok", "prefixkv"), ("100%", "full"), ("25%", "prefixkv-release")]
    texts = [tiny.text(length, seed=length) for length in (60, 41, 23, 90)]

    def read() -> list[CacheRow]:
        rows = [CacheRow(geometry, *kind) for kind in kinds]
        for row, text in zip(rows, texts, strict=True):
            prefill(model, {"input_ids": text}, PrefixKVCache.of_rows([row]))
        return rows

    with attention.installed(model):
        alone, together = read(), read()
        view, singles = PrefixKVCache.of_rows(together), [PrefixKVCache.of_rows([row]) for row in alone]
        for step in range(40):
            tokens = tiny.text(1, step, 4)[:, 0]
            logits = read_tokens(model, view, tokens)
            for index, single in enumerate(singles):
                expected = read_tokens(model, single, tokens[index : index + 1])
                torch.testing.assert_close(logits[index], expected[0], rtol=1e-4, atol=1e-4)
    for one, other in zip(alone, together, strict=True):
        assert all(one.kept_positions(layer).equal(other.kept_positions(layer)) for layer in range(2))
    with pytest.raises(PrefixKVError, match="holds 4 rows, where one is wanted"):
        assert view.row
