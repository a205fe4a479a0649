"""Continuations that share a cache as long as they agree give what each gives alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.decoding import decode
from prefixkv.evaluation.cells import Cell, new_cache
from prefixkv.evaluation.continuation import GivenText, OwnAnswer
from prefixkv.evaluation.exercise import without_last
from prefixkv.evaluation.following import Following, State, follow
from prefixkv.evaluation.perplexity import Reference, perplexity
from prefixkv.generation.prefill import Prefill
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.kernels.sending import Fetching
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument
from tests import tiny

CELLS = [Cell("prefixkv", "20%"), Cell("h2o", "10%"), Cell("local", "300tok"), Cell("full", "100%")]
per_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.method}-{cell.budget}")


@pytest.fixture(scope="module")
def inputs(demo: LoadedModel) -> dict[str, torch.Tensor]:
    from prefixkv.demo.scenes import draw_scene

    return demo.on_device(Prompt(demo.processor, [Turn("Describe the image.", (draw_scene(77).image,))]).inputs)


def _state(loaded: LoadedModel, inputs: dict[str, torch.Tensor], cell: Cell) -> State:
    prefill, cache = Prefill(loaded.model, loaded.geometry, inputs), new_cache(loaded, cell)
    prefill.fill(cache)
    return State(loaded.model, cache, prefill.logits)


def _said(loaded: LoadedModel, inputs: dict[str, torch.Tensor], cell: Cell, most: int) -> list[int]:
    """The answer by the decoder that `prefixkv chat` uses."""
    cache = PrefixKVCache(loaded.geometry, cell.budget, cell.method)
    return list(decode(loaded.model, inputs, cache, Sampling(max_new_tokens=most), stop_tokens(loaded)))


@pytest.mark.exhaustive(keep=1)
@per_cell
def test_own_answer_is_the_decoders(demo: LoadedModel, inputs: dict[str, torch.Tensor], cell: Cell) -> None:
    own = OwnAnswer(stop_tokens(demo), 30)
    with torch.inference_mode(), attention.installed(demo.model):
        follow(_state(demo, inputs, cell), [own])
        assert own.tokens == _said(demo, inputs, cell, 30)


@pytest.mark.exhaustive(keep=1)
@per_cell
def test_losses_are_those_of_a_run_of_its_own(demo: LoadedModel, inputs: dict[str, torch.Tensor], cell: Cell) -> None:
    """Three texts that part at the start, in the middle and never, against one plain loop each."""
    with torch.inference_mode(), attention.installed(demo.model):
        full = _said(demo, inputs, Cell("full", "100%"), 24)
        texts = [full, [*full[:10], 7, 9, *full[12:]], [5, 4, 3]]
        given, own = [GivenText(text) for text in texts], OwnAnswer(stop_tokens(demo), 24)
        # What `perplexity` has read when it predicts the first token.
        prompt, last = without_last(inputs)
        state = _state(demo, prompt, cell)
        state.read(last)
        follow(state, [*given, own])
    for text, followed in zip(texts, given, strict=True):
        alone = perplexity(
            demo, [Reference(inputs, text)], lambda: PrefixKVCache(demo.geometry, cell.budget, cell.method)
        )
        assert followed.tokens == text
        assert torch.tensor(followed.losses).double().mean().exp().item() == pytest.approx(alone, rel=1e-6)


def test_divergence_and_usage_against_a_plain_loop(text_model: LoadedModel) -> None:
    model: Any = text_model.model
    ids, text = tiny.text(70), tiny.text(30, seed=9)[0].tolist()

    def plain(cell: Cell) -> tuple[list[torch.Tensor], list[int]]:
        cache, step, seen, kept = new_cache(text_model, cell), ids, [], []
        for token in text:
            seen.append(model(input_ids=step, **cache_argument(cache), use_cache=True).logits[0, -1].double())
            kept.append(cache.usage().kept_bytes)
            step = torch.tensor([[token]])
        return [logits.log_softmax(-1) for logits in seen], kept

    with torch.inference_mode(), attention.installed(model):
        full, _ = plain(Cell("full", "100%"))
        small, kept = plain(Cell("h2o", "30%"))
        reference = GivenText(text, keeps_predictions=True)
        follow(_state(text_model, {"input_ids": ids}, Cell("full", "100%")), [reference])
        given = GivenText(text, reference.predictions)
        follow(_state(text_model, {"input_ids": ids}, Cell("h2o", "30%")), [given])
    expected = [float((p.exp() * (p - q)).sum()) for p, q in zip(full, small, strict=True)]
    assert max(expected) > 0.01
    assert given.divergences == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert [kept.kept_bytes for kept in given.kept] == kept


def test_copy_has_buffers_of_its_own(demo: LoadedModel, inputs: dict[str, torch.Tensor]) -> None:
    with torch.inference_mode(), attention.installed(demo.model):
        state = _state(demo, inputs, Cell("prefixkv", "20%"))
        before = copy.deepcopy(state.cache)
        other = state.copy()
        for token in range(30):
            other.read([token])
        other.read([1, 2, 3])
    assert other.cache.seen_tokens == state.cache.seen_tokens + 33
    for layer, same in zip(state.cache.layers, before.layers, strict=True):
        assert torch.equal(layer.keys, same.keys)
        assert layer.queue.equal(same.queue)


@pytest.mark.exhaustive
def test_text_side_by_side_is_text_alone(text_model: LoadedModel) -> None:
    """Every method at two budgets in one batch against one run each; batches round differently, and no more."""
    ids, text = tiny.text(90), tiny.text(40, seed=9)[0].tolist()
    cells = [Cell("full", "100%")] + [
        Cell(name, budget) for name, method in METHODS.items() if not method.keeps_all for budget in ("40%", "20tok")
    ]
    with torch.inference_mode(), attention.installed(text_model.model):
        states = [_state(text_model, {"input_ids": ids}, cell) for cell in cells]
        together = [GivenText(text) for _ in cells]
        following = Following(text_model.model, len(cells), pytest.fail)
        following.follow([(state, [one]) for state, one in zip(states, together, strict=True)])
        for cell, joint, state in zip(cells, together, states, strict=True):
            alone, single = GivenText(text), _state(text_model, {"input_ids": ids}, cell)
            follow(single, [alone])
            assert joint.losses == pytest.approx(alone.losses, rel=1e-4, abs=1e-4), cell
            assert joint.kept == alone.kept
            for layer in range(3):
                assert torch.equal(state.cache.kept_positions(layer), single.cache.kept_positions(layer))
    assert len({round(sum(joint.losses), 3) for joint in together}) > len(cells) // 2


@pytest.mark.exhaustive
def test_a_cache_is_copied_though_what_its_last_chunk_waited_for_cannot_be(
    demo: LoadedModel, inputs: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a cache holds the events behind which its curves came; the stand-in for them cannot be copied either."""

    class Arrived(Fetching):
        def __reduce__(self) -> Any:
            raise TypeError("cannot pickle 'Event' object")

    monkeypatch.setattr("prefixkv.policy.curve_transfer.Fetching", Arrived)
    with torch.inference_mode(), attention.installed(demo.model):
        for cell in (*CELLS, Cell("guided", "10%")):
            state = _state(demo, inputs, cell)
            second = state.copy()
            assert second.cache.usage().kept_bytes == state.cache.usage().kept_bytes
            assert second.cache.look_ahead is state.cache.look_ahead
            for token in range(12):
                state.read([token])
                second.read([token])
                assert torch.equal(state.logits, second.logits)
