"""Answers that lie elsewhere, by an address: never mixed up, and never those of others overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Run


@pytest.fixture
def asked(picture: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    (tmp_path / "questions.jsonl").write_text(json.dumps({"image": str(picture), "prompt": "ba be"}) + "\n")
    options = ["--model", str(model_folder), "--device", "cpu", "--method", "local", "--max-new-tokens", "3"]
    return ["batch", f"file://{tmp_path}/questions.jsonl", *options]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_others_have_written_since_is_refused_and_stays(run: Run, asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "there" / "answers.jsonl"
    out.parent.mkdir()
    words = [*asked, "--out", f"file://{out}", "--json"]
    first = run(*words)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["out"] == f"file://{out}"
    assert records(out)[0]["answer"]
    written = out.stat().st_mtime_ns
    assert run(*words).returncode == 0
    assert out.stat().st_mtime_ns == written
    out.write_text("of another\n")
    refused = run(*words)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "not as this machine has left it" in refused.stderr
    assert out.read_text() == "of another\n"
    assert run(*words, "--overwrite").returncode == 0
    assert records(out)[0]["answer"]


def test_answers_that_are_there_already_are_taken_over(run: Run, asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    assert run(*asked, "--out", f"file://{out}").returncode == 0
    before = out.read_bytes()
    for path in (tmp_path / "home" / "batches").iterdir():
        path.unlink()
    done = run(*asked, "--out", f"file://{out}")
    assert (done.returncode, "1 of 1 lines are answered already" in done.stderr) == (0, True)
    assert out.read_bytes() == before


def test_the_same_name_in_two_folders_is_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefixkv_cli.batch_files import AnswersElsewhere

    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    paths = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        paths.append(AnswersElsewhere("answers.parquet").path)
    assert len(set(paths)) == 2
