"""Whatever the order of admission, the records are the same; memory bounds how many lines run together."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from prefixkv.batch.lines import read_lines
from prefixkv.batch.preparation import Preparation
from prefixkv.batch.results import ResultFile
from prefixkv.batch.run import Batch, Progress
from prefixkv.inputs.prompts import Prompt
from prefixkv.policy.budget import Budget
from tests.families import tiny_models

WORDS = ["ba", "ce", "di", "fo", "gu", "ha"]


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> Any:
    from prefixkv.models.loading import load_model

    return load_model(str(model_folder), "cpu")


def _file(path: Path, count: int = 24) -> Path:
    drawn = random.Random(3)
    lines: list[dict[str, Any]] = [
        {"prompt": " ".join(drawn.choices(WORDS, k=drawn.randint(1, 60))), "max_new_tokens": drawn.randint(1, 12)}
        for _ in range(count)
    ]
    del lines[5]["max_new_tokens"]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def _run(loaded: Any, file: Path, out: Path, rows: int, memory: int | None = None) -> list[Progress]:
    batch = Batch(read_lines(file), file.parent, Budget.parse("30%"), "prefixkv", 4, rows, memory)
    states: list[Progress] = []
    results = ResultFile(out, batch.settings(loaded))
    batch.run(loaded, results, {}, progress=states.append)
    results.gather(batch.lines)
    return states


def test_answers_do_not_depend_on_what_runs_together(loaded: Any, tmp_path: Path) -> None:
    file = _file(tmp_path / "lines.jsonl")
    found = []
    for rows, memory in ((1, None), (3, None), (16, None), (16, 400_000)):
        out = tmp_path / f"{rows}-{memory}.jsonl"
        states = _run(loaded, file, out, rows, memory)
        found.append(out.read_bytes())
        assert states[-1].ended == 24
        assert max(state.running for state in states) <= rows
        assert all(state.reserved_bytes <= (memory or 2**30) for state in states)
    assert len(set(found)) == 1
    records = [json.loads(line) for line in found[0].splitlines()]
    asked = [json.loads(line).get("max_new_tokens", 4) for line in file.read_text().splitlines()]
    assert all(record["new_tokens"] <= most for record, most in zip(records, asked, strict=True))
    assert states[-1].tokens == sum(record["new_tokens"] for record in records)
    assert {record["finish_reason"] for record in records} <= {"length", "stop"}


def test_questions_about_one_picture_read_it_once_wherever_they_stand(loaded: Any, tmp_path: Path) -> None:
    for number in range(3):
        Image.effect_noise((28, 28), 20 + 40 * number).convert("RGB").save(tmp_path / f"{number}.png")
    lines = [{"image": f"{number}.png", "prompt": f"{word} {word}"} for word in WORDS[:3] for number in range(3)]
    found = []
    for rows, asked in ((1, lines[:1]), (4, lines), (1, lines[::-1])):
        file, out = tmp_path / "lines.jsonl", tmp_path / f"{rows}-{len(asked)}-{len(found)}.jsonl"
        file.write_text("\n".join(json.dumps(line) for line in asked))
        batch = Batch(read_lines(file), tmp_path, Budget.parse("30%"), "prefixkv", 6, rows)
        states: list[Progress] = []
        results = ResultFile(out, batch.settings(loaded))
        speed = batch.run(loaded, results, {}, progress=states.append)
        records = results.gather(batch.lines)
        found.append([records[number + 1]["answer"] for number in range(len(asked))])
        said = speed.as_dict()["prefixes"]
        if len(asked) > 1:
            assert said["read"] <= 3 < said["lines"] <= 9
            assert said["most_bytes"] > 0
            assert max(state.prefix_bytes for state in states) <= said["most_bytes"]
        else:
            assert said == {"read": 0, "lines": 0, "most_bytes": 0}
    assert found[1] == found[2][::-1]
    assert found[0][0] == found[1][0]


@pytest.mark.parametrize("longest", ["3", 0, -1, 2.5, True, [4]])
def test_a_line_with_no_length_says_so(tmp_path: Path, longest: Any) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps({"prompt": "ba", "max_new_tokens": longest, "id": 7}))
    (line,) = read_lines(file)
    assert line.error is not None
    assert f"max_new_tokens is {longest!r}" in line.error
    assert line.label == 7


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"temperature": "hot"}, "temperature is 'hot': it should be a valid number"),
        ({"temperature": True}, "temperature is True: it should be a valid number"),
        ({"temperature": 101}, "temperature is 101: it should be less than or equal to 100"),
        ({"top_p": 0}, "top_p is 0: it should be greater than 0"),
        ({"top_k": 1.5}, "top_k is 1.5: it should be a valid integer"),
        ({"seed": -1}, "seed is -1: it should be greater than or equal to 0"),
        ({"seed": 10**400}, "it should be less than"),
        ({"system": ["Be short."]}, "system is ['Be short.']: it should be a valid string"),
        ({"stop": [3]}, "stop.0 is 3: it should be a valid string"),
        ({"stop": ""}, "stop.0 is '': it should have at least 1 character"),
        ({"image": 5}, "image is 5: it should be a valid list"),
        ({"image": ["a.png", ""]}, "image.1 is '': it should have at least 1 character"),
        ({"prompt": 5}, "prompt is 5: it should be a valid string"),
        ({"prompt": " "}, "prompt is ' ': it should not be empty"),
        ({"prompt": None}, "the prompt is missing"),
        ({"prompt": None, "parts": [{"text": "a"}, {"image": 5}]}, "the picture of a part is 5: give a path"),
        ({"prompt": None, "parts": "a"}, "parts is 'a': it should be a valid list"),
        ({"max_pixels": 3}, "max_pixels is 3: it should be greater than or equal to 1024"),
        ({"keep_marks": "no"}, "keep_marks is 'no': it should be a valid boolean"),
        ({"template_args": ["a"]}, "template_args is ['a']: it should be a valid dictionary"),
        ({"template_args": {"messages": 1}}, "leave it out"),
    ],
)
def test_a_field_that_cannot_be_followed_is_an_error_of_its_line(field: dict, says: str, tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"prompt": "ba"} | field))
    (line,) = read_lines(file)
    assert says in (line.error or "")
    assert len(line.error or "") < 400


def test_what_a_line_says_of_text_pictures_and_marks_is_its_own(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    asked = {"prompt": "ba", "image": "a.png"}
    own = {"template_args": {"tone": "dry"}, "max_pixels": 1024, "keep_marks": False}
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, [asked, asked | own, asked | dict.fromkeys(own)])))
    plain, other, same = read_lines(tmp_path / "q.jsonl")
    assert (other.template_args, other.max_pixels, other.keep_marks) == tuple(own.values())
    assert plain.digest == same.digest != other.digest
    processor = tiny_models.llava().processor
    processor.chat_template = "{{ tone }} " + processor.chat_template
    loaded = SimpleNamespace(id="m", takes_images=True, processor=processor)
    preparation = Preparation(loaded, tmp_path, {"tone": "warm"}, max_pixels=2000)  # type: ignore[arg-type]
    prompts = [prompt for _, prompt in preparation.prompts([plain, other], 2)]
    said = [(prompt.template_args, prompt.turns[0].images[0].size) for prompt in prompts if isinstance(prompt, Prompt)]
    assert said == [({"tone": "warm"}, (50, 40)), ({"tone": "dry"}, (35, 28))]
    assert preparation.scaled == 1


def test_what_a_line_says_of_its_answer_is_followed_and_known_by(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    said = {"temperature": 1, "top_p": 0.5, "top_k": 3, "seed": 7, "max_new_tokens": 4}
    lines = [{"prompt": "ba"}, {"prompt": "ba"} | said, {"prompt": "ba", "system": "be"}, {"prompt": "ba", "note": 1}]
    file.write_text("\n".join(map(json.dumps, lines)))
    plain, drawn, instructed, noted = read_lines(file)
    assert (drawn.sampling, instructed.system) == (said, "be")
    assert len({plain.digest, drawn.digest, instructed.digest}) == 3
    assert noted.digest == plain.digest
