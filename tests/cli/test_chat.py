"""`prefixkv chat` without a terminal."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import Run


@pytest.fixture(scope="module")
def chat(run: Run, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from PIL import Image

    path = tmp_path_factory.mktemp("chat") / "picture.png"
    Image.linear_gradient("L").convert("RGB").save(path)

    def chat(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return run("chat", str(path), "--model", str(model_folder), "--max-new-tokens", "30", *arguments, **options)

    return chat


@pytest.fixture(scope="module")
def record(chat: Run) -> dict[str, object]:
    done = chat("-p", "ba be bi", "--json", "--budget", "50%", "--method", "local")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_json_has_exactly_the_documented_fields(record: dict) -> None:
    assert list(record) == [
        "format",
        "version",
        "answer",
        "model",
        "method",
        "codec",
        "budget",
        "prompt_tokens",
        "new_tokens",
        "finish_reason",
        "kv",
        "seconds",
        "tokens_per_second",
        "peak_device_bytes",
    ]
    assert list(record["kv"]) == [
        "full_bytes",
        "kept_bytes",
        "allocated_bytes",
        "kept_tokens_fraction",
        "bytes_fraction",
        "bits",
        "codec",
        "layers",
        "left_bytes",
    ]
    assert list(record["kv"]["layers"][0]) == ["layer", "seen_tokens", "kept_tokens", "bytes", "fine_tokens"]
    assert list(record["seconds"]) == ["load", "prefill", "decode"]


def test_json_numbers_agree_with_each_other(record: dict) -> None:
    kv = record["kv"]
    assert (record["method"], record["budget"], record["new_tokens"]) == ("local", "50%", 30)
    assert len(kv["layers"]) == 4
    assert kv["kept_bytes"] == sum(layer["bytes"] for layer in kv["layers"]) <= kv["allocated_bytes"]
    assert kv["bytes_fraction"] == pytest.approx(kv["kept_bytes"] / kv["full_bytes"])
    assert {layer["seen_tokens"] for layer in kv["layers"]} == {record["prompt_tokens"] + 29}
    assert record["tokens_per_second"] > 0
    assert record["peak_device_bytes"] > 0


def test_piped_text_is_the_prompt_where_none_is_given_or_a_dash_asks_for_it(chat: Run) -> None:
    piped, asked = chat("--json", input="ba be bi\n"), chat("--json", "-p", "-", input="ba be bi\n")
    alone = chat("--json", "-p", "ba be bi", input="what belongs to the next round of a loop\n")
    tokens = {json.loads(done.stdout)["prompt_tokens"] for done in (piped, asked, alone)}
    assert len(tokens) == 1
    answers = {json.loads(done.stdout)["answer"] for done in (piped, asked, alone)}
    assert len(answers) == 1
    empty = chat("-p", "-", input="\n")
    assert (empty.returncode, empty.stderr) == (2, "error: the prompt on stdin is empty: pipe some text in\n")


def test_answer_is_alone_on_stdout_and_the_table_on_stderr(chat: Run) -> None:
    done = chat("-p", "ba be bi", "--stats")
    assert done.returncode == 0
    assert len(done.stdout.split()) == 30
    assert done.stdout.count("\n") == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(r"^ +3 +\d+ / \d+ ", done.stderr, re.MULTILINE)
    assert "allocated" in done.stderr
    assert "tokens/s" in done.stderr


def test_picture_for_a_model_that_is_missing_from_the_hub_is_one_line(run: Run, picture: Path) -> None:
    done = run("chat", str(picture), "-p", "hello", "--model", "nobody/nothing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "nobody/nothing" in done.stderr


def test_demo_model_answers_about_a_drawn_scene(run: Run, tmp_path: Path) -> None:

    scene = json.loads(run("demo-scene", "scene.png", "--seed", "11", "--json", cwd=tmp_path).stdout)
    asked = next(question for question in scene["questions"] if question["kind"] == "count_all")
    done = run("chat", "scene.png", "--model", "demo", "--budget", "100%", "-p", asked["question"], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, asked["answer"] + "\n")
