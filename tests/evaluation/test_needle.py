"""Facts in long texts."""

from __future__ import annotations

import pytest

from prefixkv.errors import OptionError
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.exercise import Exercises
from prefixkv.evaluation.needle import DEPTHS, SEVERAL, needle_questions
from prefixkv.models.loading import LoadedModel
from prefixkv_cli.tables.eval_table import worst_depths


def _words(text: str) -> int:
    return len(text.split())


def test_facts_are_at_every_depth_and_asked_for_afterwards() -> None:
    questions = needle_questions(2 * DEPTHS, 300, 5, _words)
    assert len({question.kind for question in questions}) == DEPTHS
    for index, question in enumerate(questions):
        ((text, _),) = question.context
        assert question.answer is not None
        assert text.count(question.answer) == 1
        assert question.answer not in question.text
        assert text.count("The code of ") == (SEVERAL if index % 2 else 1)
        assert 280 <= _words(text) <= 305
        place = text.index(question.answer) / (len(text) - len(question.answer))
        assert place == pytest.approx(index % DEPTHS / (DEPTHS - 1), abs=0.06)
    assert needle_questions(3, 300, 5, _words) == questions[:3]
    assert needle_questions(3, 300, 6, _words) != questions[:3]


def test_the_length_is_in_the_models_tokens(demo: LoadedModel) -> None:
    source = DataSource.parse("needle:400:2", limit=2)
    exercise = Exercises(demo, source, 0, 0)[1]
    assert 380 <= exercise.inputs["input_ids"].shape[1] <= 460
    assert exercise.bridge
    assert exercise.further
    assert exercise.reference
    digests = {DataSource.parse(text).digest() for text in ("needle", "needle:400", "needle:400:2")}
    assert len(digests) == 3
    with pytest.raises(OptionError, match="needle"):
        DataSource.parse("needle:99")


def test_the_worst_depth_is_said() -> None:
    kinds = {"depth 0%": {"accuracy": 1.0}, "depth 5%": {"accuracy": 0.5}, "depth 11%": {"accuracy": 0.75}}
    cell = {"method": "h2o", "budget": "20%", "codec": "auto", "shared_with_full": False, "kinds": kinds}
    assert worst_depths({"cells": [cell]}) == ["h2o at 20%: worst at depth 5%, 50.0% found"]
