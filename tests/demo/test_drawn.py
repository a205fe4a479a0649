"""Drawn scenes are told from other pictures by a look at their background."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefixkv.demo.documents.document import draw_document
from prefixkv.demo.drawn import is_drawn_scene, say_strange, strange_pictures
from prefixkv.demo.scenes import IMAGE_PIXELS, draw_scene
from prefixkv.inputs.images import open_image
from prefixkv_cli.commands.demo_scene import demo_scene

SIDE = (IMAGE_PIXELS, IMAGE_PIXELS)


@pytest.mark.parametrize("seeds", [range(60), range(10**9, 10**9 + 20)], ids=["small", "large"])
def test_every_scene_is_one(seeds: range) -> None:
    assert [seed for seed in seeds if not is_drawn_scene(draw_scene(seed).image)] == []


def test_one_that_was_saved_as_jpeg_is_one() -> None:
    for seed in range(8):
        file = io.BytesIO()
        draw_scene(seed).image.save(file, "JPEG", quality=60)
        assert is_drawn_scene(Image.open(file))


@pytest.mark.parametrize(
    "image",
    [
        draw_scene(1).image.resize((300, 300)),
        draw_scene(1).image.rotate(20, fillcolor=(255, 255, 255)),
        Image.linear_gradient("L").convert("RGB").resize(SIDE),
        Image.radial_gradient("L").convert("RGB").resize(SIDE),
        Image.new("RGB", SIDE, "red"),
        Image.new("RGB", SIDE, "white"),
        Image.new("RGB", SIDE, "grey"),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIDE, 3), dtype=np.uint8)),
    ],
    ids=["smaller", "turned", "shaded", "round", "red", "white", "grey", "noise"],
)
def test_other_pictures_are_none(image: Image.Image) -> None:
    assert not is_drawn_scene(image)


def test_what_is_none_is_said() -> None:
    said: list[str] = []
    photo = Image.new("RGB", (40, 30), "red")
    photo.info["name"] = "photo.jpg"
    say_strange([draw_scene(0).image], said.append)
    assert said == []
    say_strange([photo, photo, draw_scene(0).image], said.append)
    assert said[0].startswith(
        "photo.jpg and 1 more are no drawn scenes or documents, and the bundled demo model knows nothing else"
    )


def test_a_document_that_demo_scene_wrote_is_no_strange_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "receipt.png"
    demo_scene(str(path), seed=3, kind="receipt", json=True)
    assert str(path) in capsys.readouterr().out
    document = draw_document(3, "receipt").image
    plain = Image.frombytes("RGB", document.size, document.tobytes())
    assert strange_pictures([open_image(str(path)), document, draw_scene(3).image]) == []
    assert strange_pictures([plain]) == ["the picture"]
