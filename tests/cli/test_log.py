"""The log of questions and answers: what is kept, found and removed, and that no error of it costs an answer."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from prefixkv.inputs.images import open_image, picture_sha256
from prefixkv_cli.answer_log.store import LoggedAnswer, add_answer, newest_answers
from tests.cli.program import Run, environment

ENTRY = LoggedAnswer(
    "2026-01-02T03:04:05+00:00", "c", "Ist es GRÜN?", "100% green", (), "demo", "guided", "int8", "20%",
    prompt_tokens=5, new_tokens=3, finish_reason="end", kept_bytes=20, full_bytes=100, prefill_seconds=0.5,
    decode_seconds=0.25,
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_answers_of_a_pipe_are_kept_and_no_log_keeps_none(
    home: Path, run: Run, picture: Path, model_folder: Path
) -> None:
    ask = ("chat", str(picture), "--model", str(model_folder), "--max-new-tokens", "3", "--method", "local")
    logging = {**environment(), "PREFIXKV_LOG": ""}
    one = json.loads(run(*ask, "-p", "ba be", "--json", env=logging).stdout)
    events = [
        json.loads(line)
        for line in run(*ask, "-p", "bi", "-p", "bo", "--json-lines", env=logging).stdout.split("\n")
        if line
    ]
    text = run(*ask, env=logging, input="bu").stdout
    assert run(*ask, "-p", "ca", "--no-log", env=logging).returncode == 0
    assert run("log", "off").returncode == 0
    assert run(*ask, "-p", "ce", env=logging).returncode == 0
    assert run("log", "on").returncode == 0

    path = Path(run("log", "path").stdout.strip())
    assert path == home / "log.sqlite3"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = json.loads(run("log", "list", "--json").stdout)["answers"]
    assert [row["prompt"] for row in rows] == ["ba be", "bi", "bo", "bu"]
    assert [row["answer"] for row in rows] == [
        one["answer"],
        *(event["answer"] for event in events if event["event"] == "turn"),
        text.removesuffix("\n"),
    ]
    assert rows[1]["conversation"] == rows[2]["conversation"] != rows[0]["conversation"]
    first = rows[0]
    assert first["pictures"] == [{"name": str(picture), "sha256": picture_sha256(open_image(picture))}]
    assert rows[2]["pictures"] == []
    assert (first["budget"], first["method"], first["new_tokens"]) == ("20%", "local", 3)
    assert (first["kept_bytes"], first["full_bytes"]) == (one["kv"]["kept_bytes"], one["kv"]["full_bytes"])
    assert first["prefill_seconds"] == one["seconds"]["prefill"]
    with sqlite3.connect(path) as log:
        assert log.execute("SELECT count(*) FROM answers").fetchone() == (4,)


def test_an_answer_is_given_where_the_log_cannot_be_written(
    home: Path, run: Run, picture: Path, model_folder: Path
) -> None:
    home.mkdir()
    (home / "log.sqlite3").write_bytes(b"no database at all, and longer than a header of one")
    words = (
        "chat",
        str(picture),
        "--model",
        str(model_folder),
        "--max-new-tokens",
        "2",
        "--method",
        "local",
        "--plain",
    )
    done = run(*words, "-p", "ba", "-p", "be", env={**environment(), "PREFIXKV_LOG": ""})
    assert (done.returncode, done.stderr.count("answers are not logged")) == (0, 1)
    assert len(done.stdout.splitlines()) == 2
    listed = run("log", "list")
    assert (listed.returncode, listed.stderr.count("\n")) == (1, 1)
    assert "cannot be used" in listed.stderr


def test_list_show_search_and_remove(home: Path, run: Run) -> None:
    assert "the log is empty" in run("log", "list").stderr
    assert not home.exists()
    for prompt in ("one", "two", ENTRY.prompt):
        add_answer(replace(ENTRY, prompt=prompt))
    listed = [line.split("\t") for line in run("log", "list", "-n", "2").stdout.splitlines()]
    assert [(row[0], row[2], row[3], row[4]) for row in listed] == [
        ("2", "demo", "two", "100% green"),
        ("3", "demo", "Ist es GRÜN?", "100% green"),
    ]
    shown = run("log", "show").stdout
    assert shown.startswith("answer 3 of 2026-01-02 ")
    assert "codec int8, budget 20%: 20 B of 100 B kept" in shown
    assert "> Ist es GRÜN?\n100% green\n" in shown
    for text, numbers in (("grün", ["3"]), ("0% G", ["1", "2", "3"]), ("_ne", []), ("TWO", ["2"])):
        found = run("log", "search", text)
        assert [line.split("\t")[0] for line in found.stdout.splitlines()] == numbers, text
    assert run("log", "remove", "2").returncode == 0
    assert b"two" not in (home / "log.sqlite3").read_bytes()
    again = run("log", "remove", "2", "3")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "1 of 2 answers were in the log" in again.stderr
    add_answer(replace(ENTRY, prompt="later"))
    assert [entry.id for entry in newest_answers(9)] == [1, 4], "a number is given once"
    assert run("log", "remove", "--all").returncode == 0
    assert newest_answers(9) == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("show", "7"), 1, "the log has no answer 7"),
        (("show",), 1, "the log is empty"),
        (("remove",), 2, "give either the numbers"),
        (("remove", "1", "--all"), 2, "give either the numbers"),
        (("search", " "), 2, "the text is empty"),
        (("list", "-n", "0"), 2, "limit 0 is too small"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(home: Path, run: Run, words: tuple[str, ...], code: int, says: str) -> None:
    done = run("log", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert says in done.stderr


def test_a_later_version_and_a_link_are_refused(home: Path, run: Run, tmp_path: Path) -> None:
    add_answer(ENTRY)
    with sqlite3.connect(home / "log.sqlite3") as log:
        log.execute("PRAGMA user_version = 2")
    assert "is from a later version of prefixkv" in run("log", "list").stderr
    os.replace(home / "log.sqlite3", tmp_path / "elsewhere")
    (home / "log.sqlite3").symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in run("log", "list").stderr


def _add_many(name: str) -> None:
    for number in range(20):
        add_answer(replace(ENTRY, prompt=f"{name} {number}"))


def test_processes_write_at_once_and_nothing_is_lost(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add_many, args=(name,)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    entries = newest_answers(100)
    assert {entry.prompt for entry in entries} == {f"{name} {number}" for name in "abc" for number in range(20)}
    assert [entry.id for entry in entries] == list(range(1, 61))
