"""`prefixkv save`, `contexts` and `chat --context`, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.program import ENVIRONMENT, Run

Prefixkv = Callable[..., "subprocess.CompletedProcess[str]"]
QUESTION, LATER = "How many objects are there?", "Describe the image."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts")


@pytest.fixture(scope="module")
def prefixkv(run: Run, folder: Path) -> Prefixkv:
    environment = {**ENVIRONMENT, "PREFIXKV_HOME": str(folder / "home"), "PREFIXKV_DEVICE": "cpu"}

    def prefixkv(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return run(*arguments, cwd=folder, env=environment, **options)

    for seed in ("11", "12"):
        prefixkv("demo-scene", f"scene{seed}.png", "--seed", seed)
    return prefixkv


@pytest.fixture(scope="module")
def saved(prefixkv: Prefixkv) -> dict[str, object]:
    done = prefixkv("save", "scene11.png", "--model", "demo", "-p", QUESTION, "--name", "eleven", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.exhaustive
def test_later_answer_is_that_of_a_conversation_that_went_on(prefixkv: Prefixkv, saved: dict) -> None:
    later = json.loads(prefixkv("chat", "--context", "eleven", "-p", LATER, "--json").stdout)
    whole = prefixkv("chat", "scene11.png", "--model", "demo", "-p", QUESTION, "-p", LATER).stdout.splitlines()
    assert [saved["answer"], later["answer"]] == whole


def test_picture_beside_a_context_must_be_its_own(prefixkv: Prefixkv, saved: dict) -> None:
    same = prefixkv("chat", "scene11.png", "--context", "eleven", "-p", QUESTION)
    assert same.returncode == 0
    other = prefixkv("chat", "scene12.png", "--context", "eleven", "-p", QUESTION)
    assert (other.returncode, other.stdout, other.stderr.count("\n")) == (1, "", 1)
    assert "'scene12.png' is none of the pictures of context 'eleven'" in other.stderr


def test_saved_without_a_question(prefixkv: Prefixkv) -> None:
    done = prefixkv("save", "scene12.png", "--model", "demo", "--out", "twelve.safetensors", "--budget", "70%")
    assert (done.returncode, done.stdout) == (0, "")
    assert "twelve.safetensors" in done.stderr
    answer = prefixkv("chat", "--context", "./twelve.safetensors", "-p", QUESTION).stdout
    assert answer == prefixkv("chat", "scene12.png", "--model", "demo", "-p", QUESTION, "--budget", "70%").stdout


def test_list_show_and_remove(prefixkv: Prefixkv, folder: Path, saved: dict) -> None:
    prefixkv("save", "scene12.png", "--model", "demo", "--name", "gone", "-q")
    rows = json.loads(prefixkv("contexts", "list", "--json").stdout)["contexts"]
    assert [row["name"] for row in rows] == ["eleven", "gone"]
    assert rows[0]["file_bytes"] == saved["file_bytes"] == Path(str(saved["path"])).stat().st_size
    assert (rows[0]["turns"], rows[0]["pictures"], rows[0]["model"]) == (1, 1, "demo")
    listed = prefixkv("contexts", "list").stdout
    assert listed.count("\n") == 2
    shown = prefixkv("contexts", "show", "eleven").stdout
    assert QUESTION in shown
    assert "unchanged since it was saved" in shown
    assert json.loads(prefixkv("contexts", "show", "eleven", "--json").stdout)["format"] == "prefixkv-context"
    assert prefixkv("contexts", "remove", "gone").returncode == 0
    missing = prefixkv("contexts", "remove", "gone")
    assert (missing.returncode, missing.stderr) == (1, "error: there is no context named 'gone': there are eleven\n")


def test_changed_file_and_other_file_are_refused_in_one_line(prefixkv: Prefixkv, folder: Path, saved: dict) -> None:
    data = bytearray(Path(str(saved["path"])).read_bytes())
    data[-1000] ^= 1
    (folder / "changed.safetensors").write_bytes(data)
    (folder / "text.safetensors").write_text("this is no context at all, only text")
    for name, says in (("changed", "has changed since it was saved"), ("text", "is no context")):
        for words in (["chat", "-p", QUESTION, "--context"], ["contexts", "show"]):
            done = prefixkv(*words, f"./{name}.safetensors")
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
            assert says in done.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["save", "scene11.png"], 2, "--name"),
        (["save", "--name", "x"], 2, "no picture to read"),
        (["save", "scene11.png", "--name", "../x"], 2, "is not allowed"),
        (["save", "scene11.png", "--out", "x.json"], 2, ".safetensors"),
        (["save", "scene11.png", "--name", "x", "-p", " "], 2, "prompt is empty"),
        (["save", "missing.png", "--name", "x"], 1, "does not exist"),
        (["chat", "--context", "none", "-p", "x"], 1, "there is no context named 'none'"),
        (["chat", "--context", "eleven", "-p", "x", "--budget", "5%"], 2, "brings its own budget"),
        (["chat", "--context", "eleven", "-p", "x", "--dtype", "bfloat16"], 1, "dtype float32 instead of bfloat16"),
        (["contexts", "show", "none"], 1, "there is no context named 'none'"),
    ],
)
def test_bad_input_is_one_line(
    prefixkv: Prefixkv, saved: dict, arguments: list[str], exit_code: int, says: str
) -> None:
    done = prefixkv(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (exit_code, "", 1)
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
