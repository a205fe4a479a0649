"""`prefixkv demo-scene`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from PIL import Image

from tests.cli.program import ENVIRONMENT, PROGRAM, Run


def test_demo_scene_writes_a_picture_and_prints_questions(run: Run, tmp_path: Path) -> None:
    done = run("demo-scene", "scene.png", "--seed", "7", cwd=tmp_path)
    assert done.returncode == 0
    drawn = Image.open(tmp_path / "scene.png")
    assert (drawn.size, drawn.info) == ((336, 336), {"Software": "prefixkv demo-scene"})
    assert "seed 7" in done.stderr
    assert "describe: " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]


def test_demo_scene_json_is_one_object_that_a_seed_repeats(run: Run, tmp_path: Path) -> None:
    done = run("demo-scene", "a.png", "--seed", "7", "--json", cwd=tmp_path)
    record = json.loads(done.stdout)
    assert (record["path"], record["kind"], record["seed"], done.stderr) == ("a.png", "shapes", 7, "")
    assert {"kind", "question", "answer", "context"} == set(record["questions"][0])
    follow_up = next(question for question in record["questions"] if question["context"])
    assert all(len(turn) == 2 for turn in follow_up["context"])
    again = json.loads(run("demo-scene", "b.png", "--seed", "7", "--json", cwd=tmp_path).stdout)
    assert again["questions"] == record["questions"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_demo_scene_draws_documents_of_a_kind(run: Run, tmp_path: Path) -> None:
    done = run("demo-scene", "receipt.png", "--kind", "receipt", "--seed", "7", "--json", cwd=tmp_path)
    record = json.loads(done.stdout)
    assert record["kind"] == "receipt"
    asked = {question["kind"]: question for question in record["questions"]}
    assert {"total", "transcription"} <= set(asked)
    assert asked["total"]["answer"] in asked["transcription"]["answer"]
    assert Image.open(tmp_path / "receipt.png").mode == "RGB"
    wrong = run("demo-scene", "a.png", "--kind", "bill", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "kind 'bill' is not known: give shapes, receipt, form" in wrong.stderr


def test_demo_scene_without_seed_reports_one_that_draws_the_same(run: Run, tmp_path: Path) -> None:
    first = json.loads(run("demo-scene", "a.png", "--json", cwd=tmp_path).stdout)
    second = json.loads(run("demo-scene", "b.png", "--json", cwd=tmp_path).stdout)
    assert first["seed"] != second["seed"]
    run("demo-scene", "c.png", "--seed", str(first["seed"]), cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "demo-scene", "scene.png", "--json"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
