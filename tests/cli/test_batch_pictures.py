"""Batches of pictures, of stdin and to stdout; and what is known of one before a model is loaded."""

from __future__ import annotations

import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prefixkv.batch.lines import read_lines
from prefixkv.batch.results import ResultFile
from prefixkv.demo.scenes import draw_scene
from tests.cli.loaded_modules import what_is_loaded
from tests.cli.program import PROGRAM, Run, environment

COUNT = "How many objects are there?"
DEMO = ["--model", "demo", "--max-new-tokens", "8"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in (31, 32):
        draw_scene(seed).image.save(folder / f"{seed}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def _records(text: str) -> list[dict[str, Any]]:
    return sorted((json.loads(line) for line in text.splitlines()), key=lambda record: record["line"])


def test_the_same_question_about_many_pictures(run: Run, photos: Path) -> None:
    pictures = [str(photos / name) for name in ("31.png", "32.png")]
    asked = run("batch", *pictures, "-p", COUNT, "-p", "Describe the image.", *DEMO)
    assert asked.returncode == 0, asked.stderr
    records = _records(asked.stdout)
    assert [record["id"] for record in records] == [pictures[0], pictures[0], pictures[1], pictures[1]]
    assert [records[index]["answer"] for index in (0, 2)] == ["11", "10"]
    out = photos.parent / "answers.jsonl"
    to_file = run("batch", str(photos), "-p", COUNT, *DEMO, "--out", str(out))
    assert to_file.stdout == ""
    assert [record["answer"] for record in _records(out.read_text())] == ["11", "10"]
    again = run("batch", str(photos), "-p", COUNT, *DEMO, "--out", str(out))
    assert "2 of 2 lines are answered already" in again.stderr


def test_lines_of_stdin_to_stdout(run: Run, photos: Path) -> None:
    picture = str(photos / "31.png")
    lines: list[Any] = [
        {"image": picture, "prompt": COUNT, "id": "a"},
        {"image": picture, "prompt": COUNT},
        "no object",
    ]
    text = "\n".join(map(json.dumps, lines))
    done = run("batch", "--prompts", "-", "--out", "-", *DEMO, input=text)
    assert done.returncode == 1
    first, second, third = _records(done.stdout)
    assert (first["id"], first["answer"], second["answer"]) == ("a", "11", "11")
    assert "no JSON object" in third["error"]
    only = run("batch", "-", "--out", "-", "--limit", "1", *DEMO, input=text)
    assert [record["line"] for record in _records(only.stdout)] == [1]


@pytest.mark.exhaustive
def test_options_hold_for_lines_that_do_not_say_their_own(run: Run, photos: Path) -> None:
    picture = str(photos / "31.png")
    own = {"temperature": 0, "seed": None}
    lines = [
        {"image": picture, "prompt": "Describe the image."},
        {"image": picture, "prompt": "Describe the image."} | own,
    ]
    text = "\n".join(map(json.dumps, lines))
    options = ["--model", "demo", "--max-new-tokens", "24"]
    drawn = run("batch", "-", "--out", "-", *options, "--temperature", "30", "--seed", "3", input=text)
    plain = run("batch", "-", "--out", "-", *options, input=text)
    wild, calm = (record["answer"] for record in _records(drawn.stdout))
    assert calm == _records(plain.stdout)[0]["answer"]
    assert wild != calm
    instructed = run("batch", "-", "--out", "-", *options, "--system", "Be brief.", input=text)
    tokens = [_records(done.stdout)[0]["prompt_tokens"] for done in (plain, instructed)]
    assert tokens[1] > tokens[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "there is nothing to answer"),
        (["a.jsonl", "b.jsonl", "--out", "x"], "need --prompt"),
        (["31.png", "--out", "x"], "what is to be asked about '31.png'?"),
        ([".", "--out", "x"], "what is to be asked about '.'?"),
        (["lines.jsonl"], "missing option '--out'"),
        (["lines.jsonl", "-p", "x"], "'lines.jsonl' is no picture"),
        (["--prompts", "lines.jsonl", "-p", "x", "31.png"], "give either --prompts FILE"),
        (["--prompts", "lines.jsonl", "31.png"], "give either --prompts FILE"),
        (["-p", "x"], "there is no picture to ask about"),
        (["31.png", "-p", " "], "the prompt is empty"),
        (["31.png", "-p", "x", "--json"], "give --out FILE"),
        (["lines.jsonl", "--out", "lines.jsonl"], "is the file of questions"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(run: Run, photos: Path, arguments: list[str], said: str) -> None:
    (photos / "lines.jsonl").write_text(json.dumps({"prompt": "x"}))
    done = run("batch", *arguments, "--model", "demo", cwd=photos)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("pictures", "said"), [(["none.png"], "'none.png' does not exist"), (["empty"], "folder 'empty' holds no picture")]
)
def test_pictures_that_are_not_there_are_seen_first(run: Run, photos: Path, pictures: list[str], said: str) -> None:
    (photos / "empty").mkdir()
    done = run("batch", *pictures, "-p", "x", "--model", "demo", cwd=photos)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


@pytest.fixture
def finished(run: Run, photos: Path) -> list[str]:
    """The arguments of a batch of 1,000 lines that is finished: all but two of the answers are copies."""
    file, out = photos / "lines.jsonl", photos / "answers.jsonl"
    asked = [{"image": f"{31 + index % 2}.png", "prompt": COUNT, "id": index, "seed": index} for index in range(1000)]
    file.write_text("\n".join(map(json.dumps, asked)))
    arguments = ["batch", str(file), "--out", str(out), *DEMO]
    assert run(*arguments, "--limit", "2").returncode == 0
    first = json.loads(out.read_text().splitlines()[0])
    results = ResultFile(out, first["settings"], folder=photos)
    content = {name: first[name] for name in ("answer", "prompt_tokens", "new_tokens", "finish_reason")}
    for line in read_lines(file)[2:]:
        results.append(line, content)
    return arguments


def test_a_finished_batch_is_known_without_a_model(run: Run, finished: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*PROGRAM, *finished], capture_output=True, text=True, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "1000 of 1000 lines are answered already" in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5
    (loaded,) = what_is_loaded([finished])
    assert not {"torch", "transformers", "numpy"} & loaded.modules


@pytest.mark.exhaustive
def test_what_has_changed_since_is_seen_without_a_model_or_asked_of_one(
    run: Run, finished: list[str], photos: Path
) -> None:
    other = run(*finished, "--budget", "30%")
    assert "another model, budget, method" in other.stderr
    (loaded,) = what_is_loaded([[*finished, "--budget", "30%"]])
    assert loaded.exit_code == 1
    assert "torch" not in loaded.modules
    draw_scene(33).image.save(photos / "32.png")
    changed = run(*finished, "--limit", "2")
    assert "or whose pictures are others now: 500" in changed.stderr
    assert _records((photos / "answers.jsonl").read_text())[1]["answer"] == "6"


def test_lines_in_parts(run: Run, photos: Path) -> None:
    question, picture = {"text": COUNT}, {"image": str(photos / "31.png")}
    lines = [{"parts": [picture, question]}, {"parts": [question, picture]}, {"parts": [question], "prompt": "x"}]
    text = "\n".join(map(json.dumps, [*lines, {"parts": [3]}]))
    done = run("batch", "-", "--out", "-", *DEMO, input=text)
    records = _records(done.stdout)
    assert records[0]["answer"] == "11"
    said = [record.get("error", "") for record in records]
    assert "no place for pictures between texts" in said[1]
    assert "give either them" in said[2]
    assert "part 1 is 3" in said[3]
