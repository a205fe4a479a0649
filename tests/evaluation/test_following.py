"""Continuations on many caches followed together give what each gives alone, also where the steps are captured."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.engine import captured_rows
from prefixkv.evaluation import following
from prefixkv.evaluation.cells import Cell, new_cache
from prefixkv.evaluation.continuation import Continuation, GivenText, OwnAnswer
from prefixkv.evaluation.following import Following, State, follow
from prefixkv.evaluation.given_steps import GivenSteps
from prefixkv.generation.prefill import Prefill
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import LoadedModel
from tests import tiny
from tests.engine.test_captured_rows import mistral

CELLS = [
    Cell("full", "100%"),
    Cell("h2o", "30%"),
    Cell("h2o", "20%", "int8"),
    Cell("local", "20tok"),
    Cell("tgv", "9%"),
]
TEXT = tiny.text(25, seed=9)[0].tolist()
LENGTHS = (41, 7)


@pytest.fixture
def loaded(text_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """One whose packed heads are captured, on a CPU as if that had graphs: steps are computed in plain torch."""
    monkeypatch.setattr(captured_rows, "device_obstacle", lambda device: None)
    model = mistral()
    return replace(text_model, model=model, geometry=KVGeometry.of(model.config, "float32"))


def begun(loaded: LoadedModel, length: int, cell: Cell) -> State:
    prefill, cache = (
        Prefill(loaded.model, loaded.geometry, {"input_ids": tiny.text(length, seed=length)}),
        new_cache(loaded, cell),
    )
    prefill.fill(cache)
    return State(loaded.model, cache, prefill.logits)


def continuations(length: int) -> list[Continuation]:
    """One that ends soon, one that parts from it later, and the model's own."""
    full = list(torch.randn(25, 200, generator=torch.Generator().manual_seed(length)).log_softmax(dim=-1))
    return [GivenText(TEXT[:3]), GivenText([*TEXT[:5], *TEXT[20:]], full, keeps_predictions=True), OwnAnswer([1], 8)]


@pytest.mark.parametrize("captured", [False, True])
def test_many_followed_together_are_each_alone(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    """More rows than there are places, some of which have read a given token before."""
    monkeypatch.setattr(following, "ROWS", 8)
    monkeypatch.setattr(following, "GivenSteps", partial(GivenSteps, captured=captured))
    every = [(length, cell) for length in LENGTHS for cell in CELLS]
    with torch.no_grad(), attention.installed(loaded.model):
        states = [begun(loaded, *each) for each in every]
        together = Following(loaded.model, 3 * len(every), pytest.fail)
        together.read([(state, TEXT[: at % 3]) for at, state in enumerate(states)])
        found = [continuations(length) for length, _ in every]
        together.follow(list(zip(states, found, strict=True)))
        for at, each in enumerate(every):
            state, alone = begun(loaded, *each), continuations(each[0])
            for token in TEXT[: at % 3]:
                state.read([token])
            follow(state, alone)
            for one, same in zip(found[at], alone, strict=True):
                assert one.tokens == same.tokens, each
                assert one.losses == pytest.approx(same.losses, rel=1e-4, abs=1e-4), each
                assert one.divergences == pytest.approx(same.divergences, rel=1e-4, abs=1e-4)
                assert one.kept == same.kept
            assert len(found[at][1].predictions) == len(found[at][1].divergences) == 10


def test_a_captured_step_does_not_depend_on_what_was_captured_before(loaded: LoadedModel) -> None:
    """Always the one for all places, and for what has occurred; rows keep their places while others go."""
    with torch.no_grad(), attention.installed(loaded.model):
        rows = [begun(loaded, 41, cell).cache.row for cell in CELLS[:3]]
        steps, loads = GivenSteps(loaded.model, 4, pytest.fail, captured=True), []
        for reading in (rows[:1], rows, rows[:1], rows[1:]):
            steps.read([(row, 5) for row in reversed(reading)])
            assert steps._captured is not None
            loads.append(steps._captured._load)
    assert [load and load[0] for load in loads] == [4] * 4
    assert len({load and load[1] for load in loads[1:]}) == 1
    assert loads[0] != loads[1]


def test_logits_come_in_the_order_in_which_they_were_asked_for(loaded: LoadedModel) -> None:
    """Also where one of the rows cannot be captured, which is said once."""
    said: list[str] = []
    with torch.no_grad(), attention.installed(loaded.model):
        cells = [CELLS[1], Cell("prefixkv-release", "30%"), CELLS[3], CELLS[0]]
        one, other = ([begun(loaded, 41, cell).cache.row for cell in cells] for _ in range(2))
        steps = GivenSteps(loaded.model, 4, said.append, captured=True)
        plain = GivenSteps(loaded.model, 4, pytest.fail, captured=False)
        for order in ([2, 0, 1, 3], [3, 1], [0, 1, 2, 3]):
            found = steps.read([(one[at], TEXT[at]) for at in order])
            expected = plain.read([(other[at], TEXT[at]) for at in order])
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(said) == 1
    assert "positions of its own" in said[0]
