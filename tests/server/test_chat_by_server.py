"""`prefixkv chat -p` by a server that runs: the same answers, objects and events, and no model loaded for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import TypeAdapter

from prefixkv.demo.scenes import draw_scene
from prefixkv_cli.json_outputs.answers import AnswerOutput
from tests.cli.program import PROGRAM, environment, run_here
from tests.server.running import Running, running

pytestmark = pytest.mark.exhaustive
QUESTIONS = ("How many objects are there?", "Describe the image.")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("home"), "--memory", "64MiB", "--own-process") as it:
        yield it


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "scene.png"
    draw_scene(31).image.save(path)
    return str(path)


def chat(server: Running | None, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    home = {} if server is None else {"PREFIXKV_HOME": str(server.home)}
    return run_here("chat", *words, env={**environment(), **home, **more})


def test_answers_are_those_of_a_model_in_this_process(server: Running, scene: str) -> None:
    words = (scene, "-p", QUESTIONS[0], "-p", QUESTIONS[1], "--budget", "30%", "--method", "h2o")
    here, there = chat(None, *words, "--server", "off"), chat(server, *words)
    assert (here.stdout, here.returncode) == (there.stdout, 0)
    assert len(there.stdout.splitlines()) == 2
    found = json.loads(chat(server, scene, "-p", QUESTIONS[0], "--json").stdout)
    assert TypeAdapter(AnswerOutput).validate_python(found)
    assert found["answer"] == chat(server, scene, "-p", QUESTIONS[0]).stdout.strip()
    lines = chat(server, scene, "-p", QUESTIONS[0], "-p", QUESTIONS[1], "--json-lines").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events if event["event"] != "token"] == ["start", "turn", "turn", "end"]
    assert (
        "".join(event["text"] for event in events if event.get("turn") == 2 and "text" in event) == events[-2]["answer"]
    )


def test_answers_by_a_server_are_logged(server: Running, scene: str) -> None:
    assert chat(server, scene, "-p", QUESTIONS[0], PREFIXKV_LOG="true").returncode == 0
    logged = run_here("log", "list", "--json", env={**environment(), "PREFIXKV_HOME": str(server.home)})
    assert [entry["prompt"] for entry in json.loads(logged.stdout)["answers"]] == [QUESTIONS[0]]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--server", "{url}", "--device", "cpu"), 2, "--device needs a model in this process"),
        (("--server", "nowhere"), 2, "no address"),
        (("--server", "http://127.0.0.1:9"), 1, "no server answers at http://127.0.0.1:9"),
        (("--server", "{url}", "--model", "other"), 1, "model other is not served: ask for demo"),
        (("--server", "{url}", "--budget", "2KiB"), 3, "2KiB"),
    ],
)
def test_what_a_server_cannot_do_is_said(
    server: Running, scene: str, words: tuple[str, ...], code: int, says: str
) -> None:
    done = chat(server, scene, "-p", QUESTIONS[0], *(word.format(url=server.url) for word in words))
    assert (done.returncode, done.stdout.strip()) == (code, "")
    assert says in done.stderr


def test_options_that_need_the_model_have_it_loaded_here(server: Running, scene: str) -> None:
    done = chat(server, scene, "-p", QUESTIONS[0], "--device", "cpu")
    assert done.returncode == 0
    assert f"the server at {server.url} is not asked: --device needs a model in this process" in done.stderr
    assert done.stdout == chat(server, scene, "-p", QUESTIONS[0]).stdout


def test_nothing_heavy_is_loaded_to_ask_a_server(server: Running, tmp_path: Path) -> None:
    """And so an answer is there within a second, its program's start included, on a machine that does nothing else."""
    check = (
        "import sys; from prefixkv_cli.app import _run; code = _run(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'rich', 'psutil', 'typer', 'PIL', 'inspect'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or code)"
    )
    scene = str(tmp_path / "scene.png")
    assert run_here("demo-scene", scene, "--seed", "31").returncode == 0
    # A word of the environment for a switch would have to be converted, which loads pydantic.
    where = {name: value for name, value in environment().items() if name != "PREFIXKV_LOG"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", check, "chat", scene, "-p", QUESTIONS[0], "--no-log"],
        env={**where, "PREFIXKV_HOME": str(server.home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    print(f"one question in {time.perf_counter() - began:.2f} s")


def test_a_picture_that_its_model_does_not_know_is_not_asked_of_it(server: Running, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    Image.effect_noise((336, 336), 90).convert("RGB").save(photo)
    done = chat(server, str(photo), "-p", QUESTIONS[0])
    assert f"the server at {server.url} is not asked: its demo model knows nothing of {photo}" in done.stderr


def test_a_server_that_has_gone_is_not_waited_for(server: Running, scene: str, tmp_path: Path) -> None:
    facts = json.loads((server.home / "server.json").read_text())
    # A process that is there, at an address where nothing listens.
    file = tmp_path / "server.json"
    file.write_text(json.dumps({**facts, "url": "http://127.0.0.1:9"}))
    file.chmod(0o600)
    words = [*PROGRAM, "chat", scene, "-p", QUESTIONS[0]]
    here = {**environment(), "PREFIXKV_HOME": str(tmp_path)}
    done = subprocess.run(words, env=here, capture_output=True, text=True)
    assert done.returncode == 0
    assert "does not answer" in done.stderr
