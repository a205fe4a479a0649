"""Many lines at once, some of them broken; runs that are stopped, repeated and shared."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prefixkv.batch.preparation import Preparation
from prefixkv.chat.conversation import Conversation
from prefixkv.engine import reader
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import load_model
from tests.cli.program import ENVIRONMENT, PROGRAM, Run, launched

WORDS = ["ba", "ce", "di", "fo", "gu", "ha"]
TOKENS = 6


def _questions(folder: Path, count: int) -> list[dict[str, Any]]:
    """Pictures and questions of many lengths."""
    random = np.random.default_rng(5)
    for index in range(7):
        pixels = random.integers(0, 255, (20 + 9 * index, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture{index}.png")
    return [
        {
            "image": f"picture{index % 7}.png",
            "prompt": " ".join(WORDS[(index * step) % 6] for step in range(1 + index % 23)),
        }
        for index in range(count)
    ]


def _write(path: Path, lines: list[Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def options(model_folder: Path) -> list[str]:
    method = ["--method", "prefixkv"]
    return ["--model", str(model_folder), *method, "--max-new-tokens", str(TOKENS), "--device", "cpu"]


@pytest.mark.exhaustive
def test_195_answers_and_5_errors(run: Run, tmp_path: Path, options: list[str], model_folder: Path) -> None:
    """Every answer is what the line gives alone; a second run asks nothing and changes nothing."""
    lines: list[Any] = _questions(tmp_path, 200)
    whole = (tmp_path / "picture3.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    lines[10] = {"image": "missing.png", "prompt": "ba"}
    lines[57] = {"image": "cut.png", "prompt": "ba"}
    lines[99] = '{"image": "picture1.png", "prompt": '
    lines[100] = {"image": "picture1.png", "prompt": "  "}
    lines[199] = {"image": "huge.png", "prompt": "ba"}
    file, out = _write(tmp_path / "questions.jsonl", lines), tmp_path / "answers.jsonl"
    done = run("batch", str(file), "--out", str(out), *options, "--json")
    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    speed = said.pop("speed")
    kind = {"format": "prefixkv-batch", "version": 1}
    assert said == kind | {"out": str(out), "answers": 195, "errors": [11, 58, 100, 101, 200]}
    assert 195 <= speed["tokens"] <= 195 * TOKENS
    assert speed["tokens_per_second"] == pytest.approx(speed["tokens"] / speed["seconds"])
    for name in ("first_token_seconds", "token_seconds"):
        assert 0 < speed[name]["median"] <= speed[name]["p90"] <= speed[name]["p99"] < speed["seconds"]
    records = _records(out)
    assert [record["line"] for record in records] == list(range(1, 201))
    said = {record["line"]: record["error"] for record in records if "error" in record}
    expected = {11: "does not exist", 58: "broken or cut off", 100: "no JSON", 101: "empty", 200: "400,000,000 pixels"}
    assert said.keys() == expected.keys()
    assert all(words in said[number] for number, words in expected.items())

    loaded = load_model(str(model_folder), "cpu")
    for number in (1, 2, 24, 90, 150, 199):
        line = lines[number - 1]
        talk = Conversation(loaded, "20%", "prefixkv", sampling=Sampling(TOKENS))
        with Image.open(tmp_path / line["image"]) as image:
            alone = "".join(talk.ask(line["prompt"], [image.convert("RGB")])).strip()
        assert records[number - 1]["answer"] == alone
        assert talk.last_answer is not None
        assert records[number - 1]["prompt_tokens"] == talk.last_answer.prompt_tokens

    before = out.read_bytes(), out.stat().st_mtime_ns
    again = run("batch", str(file), "--out", str(out), *options)
    assert again.returncode == 1
    assert "197 of 200 lines are answered already" in again.stderr
    assert "tried again: 3" in again.stderr
    assert out.read_bytes() == before[0]


def test_a_killed_run_goes_on_where_it_was(run: Run, tmp_path: Path, options: list[str]) -> None:
    """What was written stays byte for byte; the end is that of a run that was never stopped."""
    file = _write(tmp_path / "questions.jsonl", _questions(tmp_path, 40))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run("batch", str(file), "--out", str(whole), *options, "--rows", "4").returncode == 0
    command = [*PROGRAM, "batch", str(file), "--out", str(out), *options, "--rows", "4"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = out.read_bytes().splitlines()[: out.read_bytes().count(b"\n")]
    assert 4 <= len(kept) < 40
    with out.open("ab") as torn:
        torn.write(b'{"line": 3, "ans')
    done = run("batch", str(file), "--out", str(out), *options, "--rows", "4")
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} of 40" in done.stderr
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.exhaustive
def test_interrupt_keeps_what_is_there(tmp_path: Path, options: list[str]) -> None:
    file, out = _write(tmp_path / "questions.jsonl", _questions(tmp_path, 200)), tmp_path / "out.jsonl"
    command = [*PROGRAM, "batch", str(file), "--out", str(out), *options, "--rows", "2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (out.exists() and out.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=400)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert 4 <= len(_records(out)) < 200
    assert f"{len(_records(out))} of 200 lines are done" in stderr
    assert "the same command goes on" in stderr


def test_a_limit_answers_the_first_lines_and_keeps_what_is_behind_them(
    run: Run, tmp_path: Path, options: list[str]
) -> None:
    lines = _questions(tmp_path, 6)
    file, out = _write(tmp_path / "questions.jsonl", lines), tmp_path / "out.jsonl"
    first = run("batch", str(file), "--out", str(out), *options, "--limit", "2")
    assert "2 answers and 0 errors" in first.stderr
    assert [record["line"] for record in _records(out)] == [1, 2]
    assert run("batch", str(file), "--out", str(out), *options).returncode == 0
    whole = out.read_bytes()
    again = run("batch", str(file), "--out", str(out), *options, "--limit", "1")
    assert again.returncode == 0
    assert out.read_bytes() == whole
    assert not out.with_name("out.jsonl.earlier").exists()


def test_changed_lines_are_asked_again(run: Run, tmp_path: Path, options: list[str]) -> None:
    lines = _questions(tmp_path, 6)
    file, out = tmp_path / "questions.jsonl", tmp_path / "out.jsonl"
    run("batch", str(_write(file, lines)), "--out", str(out), *options)
    before = _records(out)
    lines[2]["prompt"] = "gu gu gu"
    done = run("batch", str(_write(file, lines)), "--out", str(out), *options)
    assert "5 of 6 lines are answered already" in done.stderr
    after = _records(out)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True, True]


def test_other_settings_are_not_mixed_in(run: Run, tmp_path: Path, options: list[str]) -> None:
    file, out = _write(tmp_path / "questions.jsonl", _questions(tmp_path, 3)), tmp_path / "out.jsonl"
    run("batch", str(file), "--out", str(out), *options)
    before = out.read_bytes()
    done = run("batch", str(file), "--out", str(out), *options, "--budget", "50%")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--overwrite" in done.stderr
    assert out.read_bytes() == before
    assert run("batch", str(file), "--out", str(out), *options, "--budget", "50%", "--overwrite").returncode == 0
    assert out.read_bytes() != before


@pytest.mark.exhaustive
def test_two_processes_write_what_one_writes(run: Run, tmp_path: Path, options: list[str]) -> None:
    lines: list[Any] = _questions(tmp_path, 70)
    lines[40] = "broken"
    file = _write(tmp_path / "questions.jsonl", lines)
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    run("batch", str(file), "--out", str(alone), *options)
    command = [*launched("--multi_gpu", "--num_processes", "2"), "batch", str(file), "--out", str(together)]
    done = subprocess.run([*command, *options], env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.stderr.count("69 answers and 1 errors") == 1, done.stderr
    assert together.read_bytes() == alone.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if "part-" in path.name) == []


def test_lines_that_need_more_memory_than_there_is(run: Run, tmp_path: Path, options: list[str]) -> None:
    """A line that does not fit says so; the others are answered in batches that do."""
    lines = _questions(tmp_path, 8)
    lines[5]["prompt"] = "ba " * 3000
    file, out = _write(tmp_path / "questions.jsonl", lines), tmp_path / "out.jsonl"
    done = run("batch", str(file), "--out", str(out), *options, "--memory", "100KiB")
    assert done.returncode == 1
    records = _records(out)
    assert [record["line"] for record in records if "error" in record] == [6]
    assert "more --memory" in records[5]["error"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["missing.jsonl", "--out", "a"], 1, "cannot be read"),
        (["empty.jsonl", "--out", "a"], 1, "holds no line"),
        (["good.jsonl"], 2, "--out"),
        (["good.jsonl", "--out", "good.jsonl"], 2, "give another"),
        (["good.jsonl", "--out", "a", "--rows", "0"], 2, "1 or more"),
        (["good.jsonl", "--out", "a", "--limit", "0"], 2, "1 or more"),
        (["good.jsonl", "--out", "a", "--memory", "20%"], 2, "4GiB"),
        (["good.jsonl", "--out", "a", "--budget", "x"], 2, "20%"),
        (["good.jsonl", "--out", "a", "--device-map", "x"], 2, "balanced"),
        (["good.jsonl", "--out", "a", "--device-map", "auto", "--device", "cpu"], 2, "either"),
        (["good.jsonl", "--out", "a", "--load-in-8bit", "--load-in-4bit"], 2, "either"),
    ],
)
def test_bad_input_gets_one_line(run: Run, tmp_path: Path, arguments: list[str], exit_code: int, says: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "good.jsonl").write_text('{"prompt": "ba"}\n')
    done = run("batch", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)
    assert says in done.stderr


def test_a_line_that_fails_in_any_way_is_its_own_fault(
    run: Run, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised in its thread or in the engine's: the others are answered, and it is tried again."""
    lines = [{"prompt": "ba"}, {"prompt": "ce"}, {"prompt": "di"}, {"prompt": "fo"}]
    file, out = _write(tmp_path / "questions.jsonl", lines), tmp_path / "answers.jsonl"
    reads, opens = reader.read, Preparation._prompt
    errors = iter([ValueError("odd\nshape"), RuntimeError("DefaultCPUAllocator: can't allocate memory")])

    def failing(model: Any, request: Any, *arguments: Any) -> int:
        if request.number <= 2 and (error := next(errors, None)):
            raise error
        return reads(model, request, *arguments)

    def opening(self: Preparation, line: Any) -> Any:
        if line.prompt == "di":
            raise TypeError("no text")
        return opens(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(reader, "read", failing)
        patched.setattr(Preparation, "_prompt", opening)
        done = run("batch", str(file), "--out", str(out), *options, "--rows", "1")
    assert done.returncode == 4, done.stderr
    said = [record.get("error", "") for record in sorted(_records(out), key=lambda record: record["line"])]
    assert said[0] == "internal error: ValueError: odd shape"
    assert said[1].startswith("cpu ran out of memory: give a smaller --budget")
    assert said[2:] == ["internal error: TypeError: no text", ""]
    again = run("batch", str(file), "--out", str(out), *options)
    assert again.returncode == 0, again.stderr
    assert "lines that met an error, and are tried again: 3" in again.stderr


def test_quantised_weights_need_their_library(run: Run, tmp_path: Path, options: list[str]) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        file = _write(tmp_path / "questions.jsonl", _questions(tmp_path, 1))
        done = run("batch", str(file), "--out", str(tmp_path / "out"), *options, "--load-in-4bit")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "pip install bitsandbytes" in done.stderr
    else:
        pytest.skip("bitsandbytes is installed")
