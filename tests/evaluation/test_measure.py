"""One sample through all cells."""

from __future__ import annotations

import math

import pytest

from prefixkv.evaluation.cells import REFERENCE, cells_of, measured_cells
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.exercise import Exercises
from prefixkv.evaluation.measure import Measuring
from prefixkv.models.loading import LoadedModel

METRICS = ("ppl", "rouge", "accuracy", "kl")


@pytest.mark.exhaustive
@pytest.mark.parametrize("data", ["scenes:9:6", "followups:10:6"])
def test_side_by_side_is_one_after_the_other(demo: LoadedModel, data: str) -> None:
    """Every method on the last sample (what is further left; letters): the same answers, figures up to rounding."""
    exercises = Exercises(demo, DataSource.parse(data), 0, 0)
    cells, right = measured_cells(cells_of("all", "20%,8%")), exercises.questions[-1].answer
    exercise = exercises[len(exercises) - 1]
    alone, together = (
        Measuring(demo, METRICS, 40, side_by_side).sample(exercise, right, cells) for side_by_side in (False, True)
    )
    assert list(alone) == list(together) == [REFERENCE, *cells]
    for cell in alone:
        one, other = alone[cell], together[cell]
        assert one["answer"] == other["answer"]
        assert one["kept_bytes"] == other["kept_bytes"]
        for name in ("loss", "kl"):
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), (cell, name)
    assert alone[REFERENCE]["kl"] == 0
    assert alone[REFERENCE]["rouge_l"] == 1
    assert any(alone[cell]["kl"] > 0.01 for cell in cells)


@pytest.mark.exhaustive
@pytest.mark.parametrize("data", ["scenes:12:21", "documents:6:21", "followups:6:21"])
def test_samples_side_by_side_are_each_alone(demo: LoadedModel, data: str) -> None:
    exercises = Exercises(demo, DataSource.parse(data), 0, 0)
    asked = [exercises[index] for index in range(len(exercises))]
    rights, cells = [question.answer for question in exercises.questions], cells_of("guided,local", "10%")
    alone, together = (Measuring(demo, METRICS, 24, each).group(asked, rights, cells) for each in (False, True))
    assert len(alone) == len(together) == len(asked)
    for one, other in zip(alone, together, strict=True):
        assert list(one) == list(other) == [REFERENCE, *cells]
        for cell in one:
            assert one[cell].keys() == other[cell].keys()
            for name, value in one[cell].items():
                near = pytest.approx(value, rel=1e-4, abs=1e-4) if name in ("loss", "kl") else value
                assert other[cell][name] == near, (cell, name)


def test_the_first_token_of_an_answer_comes_from_the_compressed_cache(demo: LoadedModel) -> None:
    """Of an answer of one token nothing is lost where it comes from the prompt's own pass, whatever is evicted."""
    source, cell = DataSource.parse("scenes:9:6"), cells_of("local", "1%")[0]
    changes = {}
    for first_token in ("cache", "prompt"):
        exercises = Exercises(demo, source, 0, 0, first_token)
        index = next(index for index in range(9) if len(exercises[index].reference or ()) == 1)
        records = Measuring(demo, ("ppl", "kl"), 4).sample(exercises[index], exercises.questions[index].answer, [cell])
        assert records[cell]["tokens"] == 1
        changes[first_token] = records[cell]["loss"] - records[REFERENCE]["loss"]
    assert changes["prompt"] == 0
    assert abs(changes["cache"]) > 1e-3


def test_without_a_right_answer_the_full_caches_own_is_predicted(demo: LoadedModel) -> None:
    from dataclasses import replace

    exercises = Exercises(demo, DataSource.parse("scenes:9:6"), 0, 0)
    exercise = exercises[8]
    assert exercise.reference is not None
    cells = cells_of("h2o", "20%")
    given = Measuring(demo, METRICS, 50).sample(exercise, exercises.questions[8].answer, cells)
    own = Measuring(demo, METRICS, 50).sample(replace(exercise, reference=None), None, cells)
    assert given[REFERENCE]["exact"]
    for cell in (REFERENCE, *cells):
        assert "exact" not in own[cell]
        assert own[cell]["tokens"] == len(exercise.reference)
        assert math.isclose(own[cell]["loss"], given[cell]["loss"], rel_tol=1e-6)
