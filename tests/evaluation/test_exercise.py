"""Questions and texts as token ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.exercise import Exercises
from prefixkv.inputs.token_ids import stop_tokens
from prefixkv.models.loading import LoadedModel


def test_reference_is_the_answer_as_the_model_spells_it(demo: LoadedModel) -> None:
    exercises = Exercises(demo, DataSource.parse("scenes:15:2"), 0, 0)
    for index, question in enumerate(exercises.questions):
        exercise = exercises[index]
        assert exercise.reference is not None
        assert demo.tokenizer.decode(list(exercise.reference)) == f" {question.answer}"
        assert not set(exercise.reference) & stop_tokens(demo)


def test_follow_up_is_read_in_three_parts_that_make_the_conversation(demo: LoadedModel) -> None:
    exercises = Exercises(demo, DataSource.parse("followups:4:2"), 0, 0)
    for index, question in enumerate(exercises.questions):
        exercise = exercises[index]
        ((first, said),) = question.context
        prompt = demo.tokenizer.decode(exercise.inputs["input_ids"][0], skip_special_tokens=True)
        assert first in prompt
        assert question.text not in prompt
        assert demo.tokenizer.decode(list(exercise.bridge)) == f" {said}</s>"
        assert demo.tokenizer.decode(list(exercise.further)) == f"USER: {question.text} ASSISTANT:"


def test_windows_lie_side_by_side(text_model: LoadedModel, text_file: Path) -> None:
    words = text_file.read_text(encoding="utf-8").split()
    exercises = Exercises(text_model, DataSource.parse(f"text:{text_file}"), 60, 20)
    assert len(exercises) == len(words) // 80
    for index in range(len(exercises)):
        exercise = exercises[index]
        read = text_model.tokenizer.decode(exercise.inputs["input_ids"][0]).split()
        assert exercise.reference is not None
        predicted = text_model.tokenizer.decode(list(exercise.reference)).split()
        assert read + predicted == words[80 * index : 80 * (index + 1)]
        assert len(read) == 60
    assert len(Exercises(text_model, DataSource.parse(f"text:{text_file}", limit=2), 60, 20)) == 2


def test_what_cannot_be_asked_is_said(text_model: LoadedModel, text_file: Path) -> None:
    with pytest.raises(PrefixKVError, match="the longest text has 500 tokens and one window takes 600"):
        Exercises(text_model, DataSource.parse(f"text:{text_file}"), 400, 200)
    with pytest.raises(PrefixKVError, match="reads no images"):
        Exercises(text_model, DataSource.parse("scenes:1"), 0, 0)
