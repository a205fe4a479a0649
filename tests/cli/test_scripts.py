"""What programs that call `prefixkv chat` rely on: JSON, event lines, quiet, environment variables, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.program import ENVIRONMENT, PROGRAM, Run


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scripts") / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def chat(run: Run, model_folder: Path, scene: Path) -> Run:
    def chat(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run("chat", str(scene), "--model", str(model_folder), "--max-new-tokens", "30", *arguments, **options)

    return chat


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def with_variables(**variables: str) -> dict[str, Any]:
    return {"env": {**ENVIRONMENT, **variables}}


def test_piped_question_gives_one_json_object_that_any_reader_takes(chat: Run) -> None:
    done = chat("--json", input="ba be bi\n")
    tool = subprocess.run(
        [PROGRAM[0], "-m", "json.tool"], input=done.stdout, capture_output=True, text=True, check=False
    )
    assert tool.returncode == 0
    assert json.loads(done.stdout)["finish_reason"] == "length"
    assert done.stdout.count("\n") == 1


def test_event_lines_each_parse_and_tell_the_whole_story(chat: Run) -> None:
    done = chat("--json-lines", "--method", "prefixkv", "-p", "ba be bi", "-p", "bo bu")
    assert (done.returncode, done.stderr) == (0, "")
    told = events(done.stdout)
    kinds = [event["event"] for event in told]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("turn") == 2
    assert set(kinds) <= {"start", "token", "stats", "turn", "end"}
    for turn in (1, 2):
        pieces = [event["text"] for event in told if event["event"] == "token" and event["turn"] == turn]
        record = next(event for event in told if event["event"] == "turn" and event["turn"] == turn)
        assert "".join(pieces).strip() == record["answer"]
    assert told[-1] == {"event": "end", "turns": 2, "exit_code": 0, "error": None}
    assert told[0]["pictures"][0]["width"] == 256
    assert len(told[0]["pictures"][0]["sha256"]) == 64


def test_turn_event_is_what_json_prints(chat: Run) -> None:
    one = json.loads(chat("--json", "-p", "ba be bi").stdout)
    turn = next(event for event in events(chat("--json-lines", "-p", "ba be bi").stdout) if event["event"] == "turn")
    assert list(turn) == ["event", "turn", "question", *(name for name in one if name not in ("format", "version"))]
    for name in ("answer", "model", "method", "budget", "prompt_tokens", "new_tokens", "finish_reason", "kv"):
        assert turn[name] == one[name]


@pytest.mark.exhaustive
def test_long_answer_has_stats_and_an_interrupted_one_ends_with_130(scene: Path, model_folder: Path) -> None:
    words = [*PROGRAM, "chat", str(scene), "--model", str(model_folder), "-p", "ba", "--json-lines"]
    child = subprocess.Popen(
        [*words, "--max-new-tokens", "16000", "--method", "prefixkv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=ENVIRONMENT,
    )
    assert child.stdout is not None
    told = []
    for line in child.stdout:
        told.append(json.loads(line))
        if told[-1]["event"] == "stats":
            child.send_signal(signal.SIGINT)
            break
    told += events(child.stdout.read())
    _, errors = child.communicate(timeout=400)
    assert child.returncode == 130
    assert errors == ""
    assert told[-1] == {"event": "end", "turns": 1, "exit_code": 130, "error": None}
    turn = next(event for event in told if event["event"] == "turn")
    assert turn["finish_reason"] == "interrupted"
    stats = next(event for event in told if event["event"] == "stats")
    shares = ["kept_tokens_fraction", "bytes_fraction", "bits"]
    assert list(stats) == ["event", "turn", "seen_tokens", *shares, "kept_bytes", "full_bytes", "tokens_per_second"]


def test_error_after_the_start_is_in_the_end_event_and_in_the_exit_code(chat: Run) -> None:
    done = chat("--json-lines", "-p", "ba", "--method", "full", "--budget", "10tok")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    end = events(done.stdout)[-1]
    assert (end["event"], end["exit_code"]) == ("end", 3)
    assert end["error"] in done.stderr


def test_several_prompts_are_turns_of_one_conversation(chat: Run) -> None:
    done = chat("-p", "ba be", "-p", "bi")
    assert done.returncode == 0
    assert [len(line.split()) for line in done.stdout.splitlines()] == [30, 30]
    refused = chat("-p", "ba be", "-p", "bi", "--json")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--json-lines" in refused.stderr


def test_quiet_leaves_stderr_empty_and_errors_stay(run: Run, tmp_path: Path) -> None:
    run("demo-scene", str(tmp_path / "scene.png"), "--seed", "11")
    words = [
        "chat",
        str(tmp_path / "scene.png"),
        "-p",
        "How many objects are there?",
        "--device",
        "cpu",
        "--max-pixels",
        "90000",
    ]
    loud, quiet = run(*words), run(*words, "--quiet")
    assert "note: " in loud.stderr
    assert (quiet.returncode, quiet.stderr, quiet.stdout) == (0, "", loud.stdout)
    assert run("chat", "missing.png", "-p", "x", "-q").stderr.startswith("error: ")


def test_nothing_is_coloured_when_piped_and_no_color_is_honoured(chat: Run) -> None:
    for variables in ({}, {"NO_COLOR": "1"}):
        done = chat("-p", "ba", "--stats", **with_variables(**variables))
        assert "\x1b" not in done.stdout + done.stderr


def test_environment_variables_stand_for_options_and_the_command_line_wins(chat: Run) -> None:
    by_variable = chat("-p", "ba", **with_variables(PREFIXKV_BUDGET="50%", PREFIXKV_METHOD="local", PREFIXKV_JSON="1"))
    record = json.loads(by_variable.stdout)
    assert (record["budget"], record["method"]) == ("50%", "local")
    line = chat("-p", "ba", "--budget", "30%", "--json", **with_variables(PREFIXKV_BUDGET="50%"))
    assert json.loads(line.stdout)["budget"] == "30%"
    lines = chat(**with_variables(PREFIXKV_PROMPT="ba be bi", PREFIXKV_JSON_LINES="1"))
    assert next(event for event in events(lines.stdout) if event["event"] == "turn")["question"] == "ba be bi"
    bad = chat("-p", "ba", **with_variables(PREFIXKV_BUDGET="120%"))
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


@pytest.mark.exhaustive
def test_picture_may_come_through_stdin(run: Run, model_folder: Path, scene: Path) -> None:
    words = ["chat", "-i", "-", "--model", str(model_folder), "--max-new-tokens", "5", "-p", "ba", "--json"]
    piped = subprocess.run(
        [*PROGRAM, *words], input=scene.read_bytes(), capture_output=True, env=ENVIRONMENT, timeout=400, check=False
    )
    direct = run("chat", str(scene), *words[3:])
    assert json.loads(piped.stdout)["answer"] == json.loads(direct.stdout)["answer"]
    nothing = run("chat", "-i", "-", "-p", "ba", "--model", str(model_folder), input="")
    assert (nothing.returncode, nothing.stderr) == (
        1,
        "error: image 'stdin' is empty (0 bytes): save or download it again\n",
    )


@pytest.mark.exhaustive
def test_kept_patches_are_painted(run: Run, tmp_path: Path) -> None:
    run("demo-scene", str(tmp_path / "scene.png"), "--seed", "11")
    words = ["chat", str(tmp_path / "scene.png"), "--model", "demo", "-p", "How many objects are there?"]
    done = run(*words, "--show-kept", str(tmp_path / "kept.png"))
    assert done.returncode == 0
    with Image.open(tmp_path / "kept.png") as painted:
        assert min(painted.size) > 300
    refused = run(*words, "--show-kept", str(tmp_path / "kept.txt"))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    nowhere = run(*words, "--show-kept", str(tmp_path / "no" / "kept.png"))
    assert nowhere.returncode == 1
    assert nowhere.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.exhaustive
def test_reader_that_leaves_is_no_error(scene: Path, model_folder: Path) -> None:
    words = " ".join([*PROGRAM, "chat", str(scene), "--model", str(model_folder), "-p", "ba", "--json-lines"])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} --method prefixkv --max-new-tokens 400 | head -n 1"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        timeout=400,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["event"] == "start"


@pytest.mark.exhaustive
def test_terminated_answer_leaves_no_half_line(scene: Path, model_folder: Path) -> None:
    """Killed at any moment, all lines but the last parse."""
    words = [*PROGRAM, "chat", str(scene), "--model", str(model_folder), "-p", "ba", "--json-lines"]
    child = subprocess.Popen(
        [*words, "--max-new-tokens", "16000"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=ENVIRONMENT
    )
    assert child.stdout is not None
    first = b"".join(child.stdout.readline() for _ in range(11))
    os.kill(child.pid, signal.SIGKILL)
    rest, _ = child.communicate(timeout=400)
    lines = (first + rest).decode().split("\n")
    assert len(lines) > 10
    assert all(json.loads(line) for line in lines[:-1])
