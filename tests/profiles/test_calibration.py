"""Calibration samples from folders and from data files in the shapes of the paper's evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.profiles.calibration import (
    TEXT_CHARACTERS,
    data_samples,
    document_samples,
    drawn_samples,
    folder_samples,
    read_prompts,
    text_samples,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.jpg", "notes.txt"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("One?\n\nTwo?\n", encoding="utf-8")
        else:
            Image.new("RGB", (8, 8), (len(name), 0, ord(name[0]))).save(tmp_path / name)
    return tmp_path


def test_folder_is_read_by_name_with_prompts_in_turn(folder: Path) -> None:
    samples = folder_samples(folder, 5, read_prompts(folder / "notes.txt"))
    assert [sample.prompt for sample in samples] == ["One?", "Two?"]
    assert samples[0].image_sha256 != samples[1].image_sha256


@pytest.mark.parametrize(
    "content",
    [
        [{"image": "b.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"value": "That."}]}],
        {"v1_0": {"imagename": "b.png", "question": "What?", "answer": "That."}},
        [{"image": "b.png", "question": "What?"}],
    ],
)
def test_data_shapes(folder: Path, content: object) -> None:
    (folder / "data.json").write_text(json.dumps(content), encoding="utf-8")
    (sample,) = data_samples(folder / "data.json", 10)
    assert sample.prompt == "What?"
    assert sample.image is not None
    assert sample.image.size == (8, 8)


@pytest.mark.parametrize("content", ["[]", "{}", "[1]", '[{"image": "b.png"}]', '[{"question": 5}]', "3"])
def test_other_shapes_are_refused(folder: Path, content: str) -> None:
    (folder / "data.json").write_text(content, encoding="utf-8")
    with pytest.raises(PrefixKVError, match=r"data\.json"):
        data_samples(folder / "data.json", 10)


def test_missing_things_are_one_line(folder: Path) -> None:
    (folder / "empty").mkdir()
    for action in (
        lambda: folder_samples(folder / "none", 1),
        lambda: folder_samples(folder / "empty", 1),
        lambda: read_prompts(folder / "b.png"),
    ):
        with pytest.raises(PrefixKVError):
            action()


def test_document_samples_ask_for_the_text_and_for_single_things() -> None:
    first, again = document_samples(8, 7), document_samples(8, 7)
    assert [(sample.prompt, sample.image_sha256) for sample in first] == [
        (sample.prompt, sample.image_sha256) for sample in again
    ]
    assert len({sample.prompt for sample in first}) > 4
    assert any("text" in sample.prompt or "say" in sample.prompt for sample in first)


def test_drawn_samples_are_the_same_every_time() -> None:
    first, again = drawn_samples(4, 7), drawn_samples(4, 7)
    assert [(s.prompt, s.image_sha256) for s in first] == [(s.prompt, s.image_sha256) for s in again]
    assert len({sample.image_sha256 for sample in first}) == 4


def test_pieces_of_a_text_do_not_overlap_and_reach_its_end(tmp_path: Path) -> None:
    text = "".join(f"{number:07d} " for number in range(2500))
    path = tmp_path / "long.txt"
    path.write_text(text, encoding="utf-8")
    samples = text_samples(path, 3)
    assert all(sample.is_raw and sample.image is None for sample in samples)
    places = [text.index(sample.prompt) for sample in samples]
    assert places == [0, 8000, 16000]
    assert places[-1] + TEXT_CHARACTERS == len(text)
    assert len(text_samples(path, 50)) == 5


def test_a_text_that_is_missing_or_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefixKVError, match="cannot be read"):
        text_samples(tmp_path / "none.txt", 3)
    short = tmp_path / "short.txt"
    short.write_text("a few words", encoding="utf-8")
    with pytest.raises(PrefixKVError, match="too short: give a text of 4,000 characters"):
        text_samples(short, 3)
