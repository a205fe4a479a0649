"""Pictures: what is read, and the one line for what is not."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import as_pictures, open_image


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


@pytest.mark.parametrize(
    ("write", "grey"),
    [
        (lambda path: path.write_bytes(b"P5 2 2 65535\n" + b"\x80\x00" * 4), 127),
        (lambda path: path.write_bytes(b"P5 2 2 4095\n" + b"\x08\x00" * 4), 127),
        (lambda path: path.write_bytes(b"P5 2 2 65535\n" + b"\x00\xc8" * 4), 0),
        (lambda path: _save_array(path, np.float32, 0.5, 1), 127),
        (lambda path: _save_array(path, np.float32, 100, 255), 100),
        (lambda path: _save_array(path, np.float32, 32768, 65535), 127),
        (lambda path: _save_array(path, np.float32, np.nan, 1), 0),
        (lambda path: _save_array(path, np.float32, -np.inf, 1), 0),
        (lambda path: _save_array(path, np.int32, 32768, 65535), 127),
        (lambda path: _save_array(path, np.int32, 100, 255), 100),
        (lambda path: _save_array(path, np.int32, 500_000, 1_000_000), 0),
    ],
)
def test_grey_of_many_bits_or_floats_keeps_its_brightness(
    tmp_path: Path, write: Callable[[Path], object], grey: int
) -> None:
    write(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif").getpixel((0, 0)) == (grey,) * 3


def _save_array(path: Path, dtype: type, value: float, white: float) -> None:
    values = np.full((2, 2), value, dtype)
    values[1, 1] = white
    Image.fromarray(values).save(path, format="TIFF")


@pytest.mark.parametrize("compressed", [True, False])
def test_png_with_megabytes_of_text_is_read(tmp_path: Path, noise: Image.Image, compressed: bool) -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=compressed)
    for index in range(30):
        texts.add_itxt(f"part{index}", "y" * 3_000_000, zip=True)
    noise.save(tmp_path / "a.png", pnginfo=texts)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(noise))


def test_png_whose_comment_is_broken_is_read(tmp_path: Path, noise: Image.Image) -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("comment", "hello")
    noise.save(tmp_path / "a.png", pnginfo=texts)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes().replace(b"hello", b"hallo"))
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(noise))


@pytest.mark.parametrize(
    "name", [b"gAMA", b"pHYs", b"iCCP", b"eXIf", b"tRNS", b"acTL", b"tIME", b"zzZz"], ids=lambda name: name.decode()
)
@pytest.mark.parametrize(
    ("content", "flipped"), [(b"", 0), (b"junk!!", 0), (b"junk!!", 1)], ids=["empty", "odd", "sum"]
)
def test_png_is_read_whatever_is_wrong_beside_its_pixels(
    tmp_path: Path, noise: Image.Image, name: bytes, content: bytes, flipped: int
) -> None:
    path = tmp_path / "a.png"
    noise.save(path)
    data, head = path.read_bytes(), 33
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content) ^ flipped)
    path.write_bytes(data[:head] + chunk + data[head:])
    if name == b"tRNS" and content and not flipped:  # it is whole, and says which colour is transparent
        open_image(path)
    else:
        assert open_image(path).tobytes() == noise.tobytes()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("notes", [b"junk", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x05" + b"\xff" * 30])
def test_broken_exif_leaves_a_picture_as_it_is(tmp_path: Path, noise: Image.Image, suffix: str, notes: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        noise.save(path, exif=b"Exif\0\0" + notes)
    assert open_image(path).size == noise.size


@pytest.mark.parametrize("size", [(20_000, 1), (1, 500), (30_300, 300)])
def test_picture_of_which_a_model_would_make_a_huge_one_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "a.png")
    assert f"{size[0]:,} x {size[1]:,} pixels" in _refused(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\0b.png"])
def test_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    assert re.search("cannot be opened|does not exist", _refused(tmp_path / name))


@pytest.mark.parametrize("given", [5, [None], [3.5]])
def test_what_is_no_picture_is_said(given: Any) -> None:
    with pytest.raises(PrefixKVError, match="give a PIL image, a path, or a file's bytes"):
        as_pictures(given)


def test_pictures_are_given_as_none_one_or_several(tmp_path: Path, noise: Image.Image) -> None:
    path = tmp_path / "a.png"
    noise.save(path)
    assert as_pictures(None) == as_pictures([]) == ()
    for one in (noise, path, str(path), path.read_bytes()):
        for given in (one, [one], (one,)):
            (picture,) = as_pictures(given)
            assert np.array_equal(np.asarray(picture), np.asarray(noise))
    assert as_pictures(Image.new("L", (4, 4)))[0].mode == "RGB"
    with pytest.raises(PrefixKVError, match="int"):
        as_pictures([1])  # type: ignore[list-item]
    with pytest.raises(PrefixKVError, match="pixels"):
        as_pictures(Image.new("RGB", (1, 5000)))
