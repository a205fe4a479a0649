"""Samples from drawn scenes, the paper's data shapes and text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixkv.demo.questions import KINDS
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.evaluation.data import ASKED_OF_PICTURES, DataSource

LLAVA = {
    "image": "b.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "That."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "This."},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "b.png")
    return tmp_path


def _file(folder: Path, content: Any) -> str:
    (folder / "data.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder / "data.json")


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ([LLAVA], "That."),
        ({"v1_0": {"imagename": "b.png", "question": "What?", "answer": "a<AND>b<OR>c"}}, "a<AND>b<OR>c"),
        ([{"image": "b.png", "question": "What?", "answer": 12}], "12"),
        ([{"image": "b.png", "question": "What?"}], None),
    ],
)
def test_shapes_of_the_paper(folder: Path, content: Any, answer: str | None) -> None:
    (question,) = DataSource.parse(_file(folder, content)).questions()
    assert (question.text, question.answer, question.context) == ("What?", answer, ())
    assert question.picture is not None
    assert question.picture().size == (8, 6)


def test_second_question_of_a_conversation(folder: Path) -> None:
    (question,) = DataSource.parse(_file(folder, [LLAVA]), follow_up=True).questions()
    assert (question.context, question.text, question.answer) == ((("What?", "That."),), "And then?", "This.")
    with pytest.raises(PrefixKVError, match="sample 0 has no second question"):
        DataSource.parse(_file(folder, [{"question": "What?", "answer": "That."}]), follow_up=True).questions()


@pytest.mark.parametrize("content", [[], {}, [1], [{"image": "b.png"}], [{"question": 5}], [{"question": " "}], 3])
def test_other_shapes_are_refused(folder: Path, content: Any) -> None:
    with pytest.raises(PrefixKVError, match=r"data\.json"):
        DataSource.parse(_file(folder, content)).questions()


def test_pictures_without_questions_are_asked_what_there_is(folder: Path) -> None:
    single = DataSource.parse(f"pictures:{folder / 'b.png'}").questions()
    assert [question.text for question in single] == list(ASKED_OF_PICTURES)
    assert all(question.answer is None and question.picture is not None for question in single)
    before = DataSource.parse(f"pictures:{folder}").digest()
    for index in range(4):
        Image.new("RGB", (8, 6), (index, 2, 3)).save(folder / f"c{index}.png")
    many = DataSource.parse(f"pictures:{folder}")
    assert many.digest() != before
    asked = many.questions()
    assert [question.text for question in asked] == [*ASKED_OF_PICTURES, *ASKED_OF_PICTURES[:2]]
    assert asked[3].picture is not None
    assert asked[3].picture().getpixel((0, 0)) == (2, 2, 3)
    assert len(DataSource.parse(f"pictures:{folder}", 2).questions()) == 2
    (folder / "none").mkdir()
    with pytest.raises(PrefixKVError, match="holds no pictures"):
        DataSource.parse(f"pictures:{folder / 'none'}").questions()
    with pytest.raises(PrefixKVError, match="is not there"):
        DataSource.parse("pictures:nowhere")
    with pytest.raises(OptionError, match="without questions"):
        DataSource.parse(f"pictures:{folder}", follow_up=True)


@pytest.mark.parametrize("text", ["scenes:0", "documents:0", "scenes:x", "scenes:5:y", "followups:1:2:3", "scenes:-1"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match=r"give scenes\[:N"):
        DataSource.parse(text)


def test_missing_files_and_wrong_kinds_say_what_to_do(folder: Path) -> None:
    (folder / "a.txt").write_text("words", encoding="utf-8")
    (folder / "empty").mkdir()
    with pytest.raises(PrefixKVError, match="is not there"):
        DataSource.parse("text:")
    with pytest.raises(PrefixKVError, match="is not there"):
        DataSource.parse(str(folder / "none.json"))
    with pytest.raises(OptionError, match="give it as text:"):
        DataSource.parse(str(folder / "a.txt"))
    with pytest.raises(OptionError, match="no questions"):
        DataSource.parse(f"text:{folder / 'a.txt'}", follow_up=True)
    with pytest.raises(PrefixKVError, match="holds no text"):
        DataSource.parse(f"text:{folder / 'empty'}").texts()
    with pytest.raises(OptionError, match="limit 0"):
        DataSource.parse("scenes", limit=0)


def test_larger_sets_of_scenes_begin_with_the_smaller_and_seeds_differ() -> None:
    few, many = DataSource.parse("scenes:20:3").questions(), DataSource.parse("scenes:40:3").questions()
    assert [(q.text, q.answer) for q in many[:20]] == [(q.text, q.answer) for q in few]
    assert [question.kind for question in few[: len(KINDS)]] == list(KINDS)
    other = DataSource.parse("scenes:20:4").questions()
    assert [q.answer for q in other] != [q.answer for q in few]


def test_pictures_are_those_the_questions_are_about() -> None:
    from prefixkv.demo.questions import question_set

    questions = DataSource.parse("scenes:3:8").questions()
    for question, (scene, _) in zip(questions, question_set(3, 8), strict=True):
        assert question.picture is not None
        assert question.picture().tobytes() == scene.image.tobytes()


def test_followups_are_unrelated_and_of_every_kind() -> None:
    questions = DataSource.parse("followups:52:6").questions()
    kinds = [question.kind for question in questions]
    assert len(set(kinds)) == len(KINDS) - 2
    assert max(map(kinds.count, kinds)) == 4
    for question in questions:
        ((first, said),) = question.context
        assert first != question.text
        assert question.answer is not None
        if not said.isdigit() and said not in ("yes", "no"):
            given_away = set(f"{first} {said}".lower().replace("?", "").split()) & set(question.answer.split())
            assert given_away <= {"a", "the", "row,", "column", "row", "in", "is", "of", "to"}, (question, given_away)


def test_documents_come_with_their_pictures_and_answers() -> None:
    from prefixkv.demo.documents.document import draw_document
    from prefixkv.demo.documents.questions import READING_KINDS, document_set

    questions = DataSource.parse("documents:20:6").questions()
    assert [question.kind for question in questions] == [*READING_KINDS, *READING_KINDS]
    few = DataSource.parse("documents:9:6", limit=3).questions()
    assert [question.answer for question in few] == [question.answer for question in questions[:3]]
    for question, (seed, kind, _) in zip(few, document_set(3, 6), strict=True):
        assert question.picture is not None
        assert question.picture().tobytes() == draw_document(seed, kind).image.tobytes()
    with pytest.raises(OptionError, match="documents have no unrelated second questions"):
        DataSource.parse("documents", follow_up=True)


def test_digest_follows_contents_and_seed_but_not_the_number(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")
    before = DataSource.parse(f"text:{tmp_path}").digest()
    assert DataSource.parse(f"text:{tmp_path}", limit=3).digest() == before
    (tmp_path / "b.md").write_text("two", encoding="utf-8")
    assert DataSource.parse(f"text:{tmp_path}").digest() != before
    assert DataSource.parse("scenes:5:1").digest() == DataSource.parse("scenes:9:1").digest()
    digests = {
        DataSource.parse(text).digest() for text in ("scenes:5:1", "scenes:5:2", "followups:5:1", "documents:5:1")
    }
    assert len(digests) == 4
