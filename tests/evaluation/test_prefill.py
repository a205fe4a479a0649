"""One pass of the model fills every cache bit for bit as a pass of its own does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.evaluation.cells import Cell, new_cache
from prefixkv.evaluation.continuation import GivenText
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.exercise import Exercises
from prefixkv.evaluation.following import State, follow
from prefixkv.generation.prefill import Prefill
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.method import Method
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from prefixkv.policy import method_calls
from prefixkv.transformers_compat import cache_argument

BUDGETS = ("100%", "7%", "400KiB")


@pytest.fixture(scope="module")
def inputs(demo: LoadedModel) -> dict[str, torch.Tensor]:
    return Exercises(demo, DataSource.parse("scenes:9:5"), 0, 0)[8].inputs


def _own_pass(loaded: LoadedModel, inputs: dict[str, torch.Tensor], cell: Cell) -> tuple[PrefixKVCache, torch.Tensor]:
    cache, model = new_cache(loaded, cell), loaded.model
    forward: Any = model
    return cache, forward(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1).logits[:, -1].float()


def _assert_equal(one: PrefixKVCache, other: PrefixKVCache) -> None:
    for layer, same in zip(one.layers, other.layers, strict=True):
        assert layer.kept_tokens == same.kept_tokens
        assert layer.queue.equal(same.queue)
        assert (layer.anchor_seen, layer.anchor_kept) == (same.anchor_seen, same.anchor_kept)
        for name in ("keys", "values", "positions", "importance"):
            assert torch.equal(getattr(layer, name), getattr(same, name)), name


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("method", METHODS)
def test_filled_cache_is_that_of_its_own_pass(demo: LoadedModel, inputs: dict[str, torch.Tensor], method: str) -> None:
    with torch.inference_mode(), attention.installed(demo.model):
        prefill = Prefill(demo.model, demo.geometry, inputs)
        for budget in BUDGETS if not METHODS[method].keeps_all else ("100%",):
            cell = Cell(method, budget)
            own, logits = _own_pass(demo, inputs, cell)
            filled = new_cache(demo, cell)
            prefill.fill(filled)
            assert torch.equal(prefill.logits, logits)
            _assert_equal(filled, own)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("method", ["h2o", "guided", "prefixkv"])
def test_a_method_scores_a_layer_once_for_all_caches_that_share(
    demo: LoadedModel, inputs: dict[str, torch.Tensor], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    score = method_calls.score

    def counted(method: Method, evidence: Evidence) -> torch.Tensor:
        scored.append(method.name)
        return score(method, evidence)

    monkeypatch.setattr(method_calls, "score", counted)
    with torch.inference_mode(), attention.installed(demo.model):
        prefill = Prefill(demo.model, demo.geometry, inputs)
        for cell in (Cell(method, "53.3%", "int8"), Cell(method, "7%", "int4"), Cell("snapkv", "20%")):
            alone, sharing = new_cache(demo, cell), new_cache(demo, cell)
            prefill.fill(alone)
            scored.clear()
            prefill.fill(sharing, shares_scores=True)
            assert len(scored) == (demo.geometry.layers if (cell.method, cell.budget) != (method, "7%") else 0)
            _assert_equal(sharing, alone)
            follow(State(demo.model, sharing, prefill.logits), [GivenText([5] * 12)])


def test_decoding_on_one_cache_leaves_the_next_one_as_it_was(
    demo: LoadedModel, inputs: dict[str, torch.Tensor]
) -> None:
    model: Any = demo.model
    with torch.inference_mode(), attention.installed(demo.model):
        prefill = Prefill(demo.model, demo.geometry, inputs)
        for cell in (Cell("full", "100%"), Cell("prefixkv", "20%")):
            first, second = new_cache(demo, cell), new_cache(demo, cell)
            prefill.fill(first)
            for token in range(12):
                model(input_ids=torch.tensor([[token]]), **cache_argument(first), use_cache=True)
            prefill.fill(second)
            _assert_equal(second, _own_pass(demo, inputs, cell)[0])
