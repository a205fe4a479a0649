"""The drawn scenes: the same from the same seed, inside their cells, in the promised ranges."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from prefixkv.demo.glyphs import LETTERS, SHAPES
from prefixkv.demo.scenes import CELL_PIXELS, COLOURS, IMAGE_PIXELS, SIZES, Scene, draw_scene

SEEDS = range(200)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in SEEDS]


def test_a_seed_always_gives_the_same_picture_and_objects():
    first, again = draw_scene(1234), draw_scene(1234)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.objects == again.objects
    assert draw_scene(1235).image.tobytes() != first.image.tobytes()


def test_the_picture_of_a_seed_never_changes():
    digest = hashlib.sha256()
    for seed in range(20):
        scene = draw_scene(seed)
        digest.update(scene.image.tobytes() + repr(scene.objects).encode())
    assert digest.hexdigest() == "1c5f62eed6654733af06c59ee64e3de2195581101954fdc09d52cdafa81d0ed1"


def test_objects_stay_in_their_cells_and_sizes_do_not_overlap(scenes):
    assert SIZES["small"][1] + 10 < SIZES["large"][0]
    for scene in scenes:
        assert scene.image.size == (IMAGE_PIXELS, IMAGE_PIXELS)
        assert 3 <= len(scene.objects) <= 12
        cells = [(item.row, item.column) for item in scene.objects]
        assert cells == sorted(set(cells))
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert item.column * CELL_PIXELS <= left < right <= (item.column + 1) * CELL_PIXELS
            assert item.row * CELL_PIXELS <= top < bottom <= (item.row + 1) * CELL_PIXELS
            assert SIZES[item.size][0] <= right - left <= SIZES[item.size][1]


def test_every_value_occurs_and_letters_are_unique_in_a_scene(scenes):
    items = [item for scene in scenes for item in scene.objects]
    assert {item.shape for item in items} == set(SHAPES)
    assert {item.colour for item in items} == set(COLOURS)
    assert {item.letter for item in items if item.letter} == set(LETTERS)
    assert {len(scene.objects) for scene in scenes} == set(range(3, 13))
    assert {scene.background for scene in scenes} == {"light", "dark"}
    for scene in scenes:
        letters = [item.letter for item in scene.objects if item.letter]
        assert len(letters) == len(set(letters))


def test_the_named_colour_is_what_the_picture_shows(scenes):
    palette = np.array(list(COLOURS.values()))
    for scene in scenes[:50]:
        pixels = np.asarray(scene.image).astype(int)
        for item in scene.objects:
            left, top, right, bottom = item.box
            region = pixels[top:bottom, left:right].reshape(-1, 3)
            near = np.abs(region[:, None] - palette).max(-1) < 45
            assert list(COLOURS)[int(near.sum(0).argmax())] == item.colour


def test_drawing_and_asking_load_no_torch():
    code = "import sys, prefixkv.demo.questions; print(*(name in sys.modules for name in ('torch', 'transformers')))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "False"]
