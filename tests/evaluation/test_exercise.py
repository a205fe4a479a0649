"""Questions and texts as token ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.exercise import Exercises, without_last
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
    exercises = Exercises(demo, DataSource.parse("followups:4:2"), 0, 0, "prompt")
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
    exercises = Exercises(text_model, DataSource.parse(f"text:{text_file}"), 60, 20, "prompt")
    assert len(exercises) == len(words) // 80
    for index in range(len(exercises)):
        exercise = exercises[index]
        read = text_model.tokenizer.decode(exercise.inputs["input_ids"][0]).split()
        assert exercise.reference is not None
        predicted = text_model.tokenizer.decode(list(exercise.reference)).split()
        assert read + predicted == words[80 * index : 80 * (index + 1)]
        assert len(read) == 60
    assert len(Exercises(text_model, DataSource.parse(f"text:{text_file}", limit=2), 60, 20)) == 2


@pytest.mark.parametrize("data", ["scenes:3:2", "followups:3:2"])
def test_the_last_token_before_the_answer_is_left_to_a_step(demo: LoadedModel, data: str) -> None:
    whole, stepped = (Exercises(demo, DataSource.parse(data), 0, 0, first)[2] for first in ("prompt", "cache"))
    assert (len(whole.last), len(stepped.last)) == (0, 1)
    told = [[*e.inputs["input_ids"][0].tolist(), *e.bridge, *e.further, *e.last] for e in (whole, stepped)]
    assert told[0] == told[1]
    assert torch.equal(whole.inputs["pixel_values"], stepped.inputs["pixel_values"])
    assert whole.reference == stepped.reference
    is_shorter = stepped.inputs["input_ids"].shape[1] < whole.inputs["input_ids"].shape[1]
    assert is_shorter == (not whole.further)


def test_what_is_told_of_each_token_is_cut_with_it() -> None:
    inputs = {"input_ids": torch.tensor([[5, 6, 7]]), "token_type_ids": torch.tensor([[1, 1, 0]])}
    first, last = without_last(inputs | {"pixel_values": torch.zeros(1, 3, 2, 2)})
    assert last == (7,)
    assert [first[name].tolist() for name in inputs] == [[[5, 6]], [[1, 1]]]
    assert first["pixel_values"].shape == (1, 3, 2, 2)
    assert without_last({"input_ids": torch.tensor([[5]])})[1] == ()


def test_what_cannot_be_asked_is_said(text_model: LoadedModel, text_file: Path) -> None:
    with pytest.raises(PrefixKVError, match="the longest text has 500 tokens and one window takes 600"):
        Exercises(text_model, DataSource.parse(f"text:{text_file}"), 400, 200)
    with pytest.raises(PrefixKVError, match="reads no images"):
        Exercises(text_model, DataSource.parse("scenes:1"), 0, 0)
