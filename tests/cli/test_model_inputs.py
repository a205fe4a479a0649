"""What reaches the model besides the question: template arguments, limits of pixels, marks kept in answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefixkv.demo.scenes import draw_scene
from tests.cli.program import Run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    draw_scene(31).image.save(tmp_path / "scene.png")
    return tmp_path / "scene.png"


def test_alike_in_chat_save_and_batch(run: Run, scene: Path) -> None:
    options = ["--model", "demo", "--max-pixels", "60000", "--template-arg", "enable_thinking=false", "--keep-marks"]
    question = ["-p", "How many objects are there?"]
    asked = run("chat", str(scene), *question, *options)
    assert asked.returncode == 0, asked.stderr
    assert "scene.png (336 x 336) is scaled down to 244 x 244 pixels" in asked.stderr
    assert "does not use 'enable_thinking'" in asked.stderr
    saved = run("save", str(scene), *question, *options, "--out", str(scene.parent / "a.safetensors"))
    assert saved.stdout == asked.stdout
    lines = scene.parent / "lines.jsonl"
    lines.write_text(json.dumps({"image": "scene.png", "prompt": question[1]}))
    batch = run("batch", str(lines), "--out", str(scene.parent / "answers.jsonl"), *options)
    assert batch.returncode == 0, batch.stderr
    assert "scaled down to 60,000 pixels or less: 1" in batch.stderr
    assert "does not use 'enable_thinking'" in batch.stderr
    assert json.loads((scene.parent / "answers.jsonl").read_text())["answer"] == asked.stdout.strip()
    other = run("batch", str(lines), "--out", str(scene.parent / "answers.jsonl"), *options[:2])
    assert "another model, budget, method, codec or answer length" in other.stderr


@pytest.mark.parametrize("command", ["chat", "save", "batch"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-pixels", "5"], "max-pixels 5 is too small: give 1,024 or more"),
        (["--template-arg", "thinking"], "template-arg 'thinking' has no value: write NAME=VALUE"),
        (["--template-arg", "messages=1"], "leave it out"),
    ],
)
def test_values_that_are_refused_before_a_model_is_loaded(
    run: Run, scene: Path, command: str, options: list[str], said: str
) -> None:
    to = [] if command == "chat" else ["--out", "a.safetensors"]
    done = run(command, str(scene), *to, *options, *(["-p", "x"] if command != "batch" else []))
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
