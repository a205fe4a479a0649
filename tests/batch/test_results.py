"""The file of answers keeps what it has: known by what was asked, never cut, never two runs at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from prefixkv.batch.lines import Line, read_lines, repeated
from prefixkv.batch.results import ResultFile
from prefixkv.errors import PrefixKVError


def _lines(folder: Path, *content: Any) -> list[Line]:
    path = folder / "q.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in content))
    return read_lines(path)


def _results(folder: Path, settings: str = "s") -> ResultFile:
    return ResultFile(folder / "a.jsonl", settings, folder=folder)


def _answered(folder: Path, lines: list[Line]) -> ResultFile:
    results = _results(folder)
    for line in lines:
        results.append(line, {"answer": line.prompt.upper()})
    return results


def _answers(records: dict[int, dict[str, Any]]) -> dict[int, str]:
    return {number: record.get("answer", record.get("error")) for number, record in records.items()}


A, B, C = ({"prompt": prompt, "image": f"{prompt}.png"} for prompt in "abc")


def test_answers_are_known_by_what_was_asked_not_by_their_number(tmp_path: Path) -> None:
    _answered(tmp_path, _lines(tmp_path, A, B))
    moved = _lines(tmp_path, C, B, {"id": 7, "image": ["a.png"], "prompt": "a", "remark": "another order of fields"})
    records = _results(tmp_path).gather(moved, retry=True)
    assert _answers(records) == {2: "B", 3: "A"}
    assert records[3]["id"] == 7
    assert [json.loads(line)["line"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [2, 3]


@pytest.mark.parametrize("change", [{"prompt": "x"}, {"image": "x.png"}, {"image": None}, {"seed": 1}, {"stop": ["."]}])
def test_a_line_that_asks_something_else_is_asked(tmp_path: Path, change: dict[str, Any]) -> None:
    _answered(tmp_path, _lines(tmp_path, A, B))
    results = _results(tmp_path)
    assert _answers(results.gather(_lines(tmp_path, A | change, B), retry=True)) == {2: "B"}
    assert results.set_aside == 1
    (earlier,) = results.earlier_path.read_text().splitlines()
    assert json.loads(earlier)["answer"] == "A"
    assert _answers(results.gather(_lines(tmp_path, A | change, B), retry=True)) == {2: "B"}
    assert len(results.earlier_path.read_text().splitlines()) == 1


def test_lines_that_are_equal_are_answered_once_and_written_for_each(tmp_path: Path) -> None:
    lines = _lines(tmp_path, A, B, A | {"id": "again"}, A)
    assert {number: line.number for number, line in repeated(lines).items()} == {3: 1, 4: 1}
    records = _answered(tmp_path, lines[:2]).gather(lines)
    assert _answers(records) == {1: "A", 2: "B", 3: "A", 4: "A"}
    assert records[3]["id"] == "again"
    assert "id" not in records[4]


def test_errors_that_can_pass_are_tried_again_and_those_of_the_line_itself_are_not(tmp_path: Path) -> None:
    lines = _lines(tmp_path, A, "no json", B)
    results = _answered(tmp_path, lines[2:])
    results.append(lines[0], {"error": "not there"})
    results.append(lines[1], {"error": str(lines[1].error)})
    assert _answers(results.gather(lines)) == {1: "not there", 2: lines[1].error, 3: "B"}
    assert _answers(results.gather(lines, retry=True)) == {2: lines[1].error, 3: "B"}
    assert results.retried == 1
    results.append(lines[0], {"answer": "A"})
    assert _answers(results.gather(lines, retry=True)) == {1: "A", 2: lines[1].error, 3: "B"}


def test_a_picture_that_is_replaced_under_its_name_makes_another_line(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    lines = _lines(tmp_path, A, B)
    results = _answered(tmp_path, lines)
    os.utime(picture, (1, 1))
    assert _answers(results.gather(lines, retry=True)) == {1: "A", 2: "B"}
    picture.write_bytes(b"two")
    assert _answers(results.gather(lines, retry=True)) == {2: "B"}
    assert "A" in results.earlier_path.read_text()
    results.append(lines[0], {"answer": "two"})
    picture.unlink()
    assert _answers(results.gather(lines, retry=True)) == {1: "two", 2: "B"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"my notes", "no answer of a batch"),
        (b"my notes\n", "no answer of a batch"),
        (b'{"line": "x", "input": "y", "settings": "s"}\n', "no answer of a batch"),
        (b"[" * 100_000 + b"\n", "no answer of a batch"),
        (b"\xff\xfe\n", "no answer of a batch"),
        (b'{"line": 1, "input": "i", "settings": "s"}\n', "there is an answer or an error"),
        (b'{"line": 1, "input": "i", "settings": "s", "answer": 3}\n', "answer is 3: it should be a valid string"),
        (b'{"line": 1, "input": "i", "settings": "s", "answer": "x", "new_tokens": NaN}\n', "NaN is not a number"),
        (b'{"line": 1, "input": "i", "settings": "s", "answer": "x", "new_tokens": 1e999}\n', "1e999 is not a number"),
        (
            b'{"line": 1, "input": "i", "settings": "s", "answer": "x", "pictures": [{}]}\n',
            "pictures.0.bytes is missing",
        ),
        (b'{"line": 1, "input": "other", "settings": "s", "answer": "x"}\n', "answers to other questions"),
        (b'{"line": 1, "input": "other", "settings": "t", "answer": "x"}\n', "another model"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(PrefixKVError, match=says):
        _results(tmp_path).gather(_lines(tmp_path, A), retry=True)
    assert (tmp_path / "a.jsonl").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "q.jsonl"]


@pytest.mark.parametrize("torn", [b"{", b'{"line', b'{"line": 3, "ans'])
def test_what_a_stopped_process_had_begun_is_dropped(tmp_path: Path, torn: bytes) -> None:
    lines = _lines(tmp_path, A, B)
    results = _answered(tmp_path, lines[:1])
    with results.path.open("ab") as file:
        file.write(torn)
    assert _answers(results.gather(lines, retry=True)) == {1: "A"}


def test_the_second_run_on_one_file_says_so(tmp_path: Path) -> None:
    first, second = _results(tmp_path), _results(tmp_path)
    first.hold()
    with pytest.raises(PrefixKVError, match="another run"):
        second.hold()
    first.release()
    second.hold()
    second.release()
    assert list(tmp_path.iterdir()) == []


ODD = [
    '{"prompt": "a", "id": "\\ud800"}',
    '{"prompt": "a", "id": NaN}',
    '{"prompt": "a", "id": 1e999}',
    '{"prompt": "a", "id": ' + "[" * 400 + "]" * 400 + "}",
    '{"prompt": "\\ud800"}',
    '{"prompt": "a", "image": "' + "x" * 300 + '.png"}',
    '{"prompt": "a", "image": "~nosuch/x.png"}',
    '{"prompt": "a", "image": "a\\u0000.png"}',
    '{"prompt": "a", "image": {"a": "' + "x" * 1000 + '"}}',
    "[" * 100_000,
    '{"prompt": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:40])
def test_an_odd_line_gets_a_record_that_can_be_read_again(tmp_path: Path, odd: str) -> None:
    lines = _lines(tmp_path, odd, A)
    results = _answered(tmp_path, lines[1:])
    try:
        lines[0].pictures(tmp_path)
        results.append(lines[0], {"error": lines[0].error or "none"})
    except PrefixKVError as error:
        results.append(lines[0], {"error": str(error)})
    records = results.gather(lines)
    assert sorted(records) == [1, 2]
    assert len(records[1]["error"]) < 600
    assert results.read().keys() == {1, 2}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_questions_in_other_encodings_are_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes('{"prompt": "ü"}\r\n\n{"prompt": "b"}\n'.encode(encoding))
    assert [(line.prompt, line.error) for line in read_lines(path)] == [("ü", None), ("b", None)]


def test_utf16_that_is_cut_is_said(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_bytes('{"prompt": "ü"}\n'.encode("utf-16")[:-1])
    with pytest.raises(PrefixKVError, match="UTF-16"):
        read_lines(tmp_path / "q.jsonl")


def test_pipes_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PrefixKVError, match="no regular file"):
        ResultFile(tmp_path / "pipe", "s").gather(_lines(tmp_path, A))
    with pytest.raises(PrefixKVError, match="is a folder"):
        ResultFile(tmp_path, "s").gather(_lines(tmp_path, A))


def test_an_error_that_names_a_file_of_another_encoding_is_read_again(tmp_path: Path) -> None:
    lines = _lines(tmp_path, A, B)
    results = _answered(tmp_path, lines[:1])
    results.append(lines[1], {"error": "image caf\udce9.png does not exist"})
    assert _answers(results.gather(lines))[2] == "image caf\\udce9.png does not exist"
