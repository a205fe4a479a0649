"""What was said on stderr is in the JSON as well, and nothing of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefixkv.demo.scenes import draw_scene
from prefixkv_cli import output
from tests.cli.program import Run

COUNT = "How many objects are there?"
OPTIONS = ["--model", "demo", "--max-pixels", "60000"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    draw_scene(31).image.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_notices_are_in_the_json_of_one_answer(run: Run, scene: Path, quiet: list[str]) -> None:
    asked = run("chat", str(scene), "-p", COUNT, *OPTIONS, "--json", *quiet)
    (warning,) = json.loads(asked.stdout)["warnings"]
    assert "scene.png (336 x 336) is scaled down" in warning
    assert (warning in asked.stderr) == (not quiet)
    plain = run("chat", str(scene), "-p", COUNT, *OPTIONS[:2], "--json", *quiet)
    assert "warnings" not in json.loads(plain.stdout)


@pytest.mark.exhaustive
def test_of_each_turn_save_and_batch(run: Run, scene: Path) -> None:
    events = run("chat", str(scene), "-p", COUNT, "-p", "Describe the image.", *OPTIONS, "--json-lines")
    turns = [json.loads(line) for line in events.stdout.splitlines()]
    assert ["warnings" in turn for turn in turns if turn["event"] == "turn"] == [True, False]
    saved = run("save", str(scene), *OPTIONS, "--out", str(scene.parent / "a.safetensors"), "--json")
    assert "scaled down" in json.loads(saved.stdout)["warnings"][0]
    answers = str(scene.parent / "a.jsonl")
    batch = run("batch", str(scene), "-p", COUNT, *OPTIONS, "--out", answers, "--json")
    assert "scaled down" in json.loads(batch.stdout)["warnings"][0]
    again = run("batch", str(scene), "-p", COUNT, *OPTIONS, "--out", answers, "--json")
    assert "are answered already" in json.loads(again.stdout)["warnings"][0]


def test_no_more_than_the_newest_are_kept() -> None:
    output.take_notices()
    output.be_quiet(True)
    for number in range(300):
        output.notice(str(number))
    output.be_quiet(False)
    taken = output.take_notices()
    assert (len(taken), taken[-1]) == (100, "299")
    assert output.take_notices() == []
