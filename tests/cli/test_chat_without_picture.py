"""A conversation that begins without a picture: the demo model offers an example, others are asked in text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.program import Run
from tests.cli.screen import Terminal


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.exhaustive
def test_the_demo_model_offers_an_example(tmp_path: Path) -> None:
    terminal = Terminal(["chat", "--model", "demo", "--device", "cpu"], PREFIXKV_HOME=str(tmp_path / "home"))
    try:
        terminal.wait_until_loaded()
        assert "there is no picture yet: drop one here, or press Enter on an empty line" in words(terminal.text)
        terminal.enter("How many objects are there?")
        assert "error: the demo model answers questions about a picture: drop one here" in words(terminal.text)
        terminal.enter("")
        assert "goes with the next question" in words(terminal.text)
        terminal.enter("How many objects are there?")
        terminal.enter(f"/export {tmp_path / 'talk.json'}")
        terminal.child.send("/bye\r")
        assert terminal.end() == 0
    finally:
        terminal.child.close(force=True)
    (turn,) = json.loads((tmp_path / "talk.json").read_text())["turns"]
    assert len(turn["pictures"]) == 1
    assert turn["answer"].isdigit()


@pytest.mark.parametrize("prompt", [["-p", "How many?"], []])
def test_one_question_to_the_demo_model_needs_a_picture(run: Run, prompt: list[str]) -> None:
    done = run("chat", "--model", "demo", *prompt, input="" if prompt else "How many?")
    assert done.returncode == 1
    assert "the demo model answers questions about a picture: give one" in done.stderr
    assert done.stderr.count("\n") == 1


def test_other_models_are_asked_in_text_alone(run: Run, model_folder: Path) -> None:
    done = run("chat", "--model", str(model_folder), "-p", "ba ce di", "--max-new-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new_tokens"] > 0
