"""A batch of drawn questions: no file is needed, and every answer says what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefixkv.demo.documents.questions import document_set
from prefixkv.demo.questions import question_set
from prefixkv_cli.batch_questions import read_questions
from tests.cli.program import Run


def _asked(data: str) -> list[tuple[Any, ...]]:
    lines = read_questions((), None, (), data).lines
    return [(line.number, line.prompt, *line.sources, line.label) for line in lines]


def test_lines_are_the_questions_of_eval_without_second_ones(capsys: pytest.CaptureFixture[str]) -> None:
    expected = [(f"drawn:{kind}:{seed}", asked) for seed, kind, asked in document_set(20, 7) if not asked.context]
    assert _asked("documents:20:7") == [
        (number, asked.question, picture, {"kind": asked.kind, "right": asked.answer})
        for number, (picture, asked) in enumerate(expected, start=1)
    ]
    assert 10 < len(expected) < 20
    assert f"{20 - len(expected)} of 20 questions are second ones" in capsys.readouterr().err
    scene, asked = question_set(1, 3)[0]
    assert _asked("scenes:1:3")[0][1:3] == (asked.question, f"drawn:shapes:{scene.seed}")


def test_answers_stand_beside_what_is_right(run: Run, tmp_path: Path) -> None:
    done = run("batch", "--data", "documents:2:7", "--out", "a.jsonl", "--model", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [record["id"]["kind"] for record in records] == ["value", "total"]
    assert [record["answer"] for record in records] == [record["id"]["right"] for record in records]
    again = run("batch", "--data", "documents:2:7", "--out", "a.jsonl", "--model", "demo", cwd=tmp_path)
    assert "2 of 2 lines are answered already" in again.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "text:a.txt"), "is not drawn"),
        (("--data", "documents:0"), "documents:0"),
        (("--data", "documents:2", "-p", "What?"), "no file, picture or prompt"),
    ],
)
def test_what_cannot_be_asked_is_refused(run: Run, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    done = run("batch", *words, "--out", "a.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr
