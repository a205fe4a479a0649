"""Pictures: what is read, and the one line for what is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import open_image


@pytest.fixture
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_picture_is_read_as_rgb(tmp_path: Path, noise: Image.Image, suffix: str) -> None:
    noise.save(tmp_path / f"a.{suffix}")
    image = open_image(tmp_path / f"a.{suffix}")
    assert (image.mode, image.size) == ("RGB", (80, 60))


def test_lossless_picture_keeps_its_pixels(tmp_path: Path, noise: Image.Image) -> None:
    noise.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(noise))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 3)
        image.putpalette([10] * 768)
        image.save(tmp_path / "a.png", transparency=3)
    else:
        Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path: Path) -> None:
    Image.new("I;16", (4, 4), 32768).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (127, 127, 127)


def test_exif_orientation_is_applied(tmp_path: Path, noise: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == (60, 80)


def test_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def _refused(path: Path) -> str:
    with pytest.raises(PrefixKVError) as caught:
        open_image(path)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in _refused(tmp_path / "a.png")


def test_folder_is_refused(tmp_path: Path) -> None:
    assert "folder" in _refused(tmp_path)


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert "0 bytes" in _refused(tmp_path / "a.png")


def test_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "regular file" in _refused(tmp_path / "a.png")


def test_text_named_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture\n" * 100)
    assert "no picture that can be read" in _refused(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.998])
def test_picture_cut_off_anywhere_is_refused(tmp_path: Path, noise: Image.Image, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    noise.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    _refused(path)


def test_png_without_its_end_is_refused_though_all_pixels_are_there(tmp_path: Path, noise: Image.Image) -> None:
    noise.save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-12])
    _refused(tmp_path / "a.png")


def test_png_with_a_flipped_byte_is_refused(tmp_path: Path, noise: Image.Image) -> None:
    noise.save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert "broken" in _refused(tmp_path / "a.png")


@pytest.mark.parametrize("limit", [4_000, 2_000])
def test_too_many_pixels_are_refused_with_count_and_limit(
    tmp_path: Path, noise: Image.Image, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Pillow only warns up to twice its limit; both are refused."""
    noise.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = _refused(tmp_path / "a.png")
    assert "4,800 pixels" in message
    assert f"{limit:,}" in message


def test_unreadable_file_is_refused(tmp_path: Path, noise: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    noise.save(tmp_path / "a.png")

    def deny(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", deny)
    assert "permissions" in _refused(tmp_path / "a.png")
