"""HEIC pictures and pages of PDF files: read where the extra is installed, refused in one line where it is not."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixkv.batch.picture_files import are_the_same, file_marks
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import decode_image, open_image
from prefixkv.inputs.picture_source import is_file, looks_like_picture, open_source

HEIC_HEAD = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + b"\0" * 40
AVIF_HEAD = b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1" + b"\0" * 40


def pdf(pages: int, size: tuple[int, int] = (144, 72)) -> bytes:
    """A PDF file whose pages differ in their colour: red, green, blue."""
    file = io.BytesIO()
    first, *rest = (Image.new("RGB", size, colour) for colour in ("red", "lime", "blue")[:pages])
    first.save(file, "PDF", save_all=True, append_images=rest)
    return file.getvalue()


def strongest(image: Image.Image) -> int:
    """The channel that is strongest at a picture's corner; a page's colours come near, not exactly."""
    pixel: Any = image.getpixel((5, 5))
    return max(range(3), key=lambda channel: pixel[channel])


@pytest.mark.parametrize(("data", "module"), [(HEIC_HEAD, "pillow_heif"), (pdf(1), "pypdfium2")], ids=["heic", "pdf"])
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, data: bytes, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PrefixKVError, match=r"install `prefixkv\[formats\]`") as refused:
        decode_image(data, "x.heic")
    assert "\n" not in str(refused.value)


def test_avif_is_no_heic() -> None:
    with pytest.raises(PrefixKVError) as refused:
        decode_image(AVIF_HEAD, "x.avif")
    assert "HEIC: install" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a.PDF", True), ("a.pdf#page=12", True), ("a.heic", True), ("a.pdf#12", False), ("a#b.png", True), ("a", False)],
)
def test_names_of_pictures(name: str, is_one: bool) -> None:
    assert looks_like_picture(name) == is_one


def test_a_page_of_what_has_none(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(PrefixKVError, match="no PDF file, and has no pages: leave #page=2 out"):
        open_source("a.png#page=2", tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "a.png#page=2")
    assert open_source("a.png#page=2", tmp_path).size == (20, 20)


def test_pages_are_drawn() -> None:
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed: prefixkv[formats]")
    image = decode_image(pdf(3), "x.pdf", page=2)
    assert image.mode == "RGB"
    assert image.size == (300, 150)
    assert image.info == {"name": "x.pdf#page=2"}
    assert strongest(image) == 1
    assert decode_image(pdf(1), "x.pdf").size == (300, 150)
    assert decode_image(pdf(1, (7200, 7200)), "x.pdf").size == (5000, 5000)


@pytest.mark.parametrize(
    ("data", "page", "said"),
    [
        (pdf(3), None, "has 3 pages: say which, as in x.pdf#page=1"),
        (pdf(3), 4, "has no page 4: it has 3"),
        (pdf(3), 0, "has no page 0"),
        (pdf(1)[:200], 1, "cannot be read"),
        (b"%PDF-1.7 nothing", None, "cannot be read"),
        (pdf(1, (10, 7200)), None, "at most 100 times the other"),
    ],
    ids=["no page said", "beyond the last", "zero", "cut", "no PDF", "narrow"],
)
def test_pages_that_cannot_be_drawn(data: bytes, page: int | None, said: str) -> None:
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed: prefixkv[formats]")
    with pytest.raises(PrefixKVError, match=said):
        decode_image(data, "x.pdf", page)


def test_a_page_by_its_source(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed: prefixkv[formats]")
    file = tmp_path / "a b.pdf"
    file.write_bytes(pdf(3))
    for source in (f"{file}#page=3", f"{file.as_uri()}#page=3"):
        assert strongest(open_source(source)) == 2
        assert is_file(source)
    marks = file_marks(["a b.pdf#page=3"], tmp_path)
    assert marks[0] is not None
    file.write_bytes(pdf(2))
    assert not are_the_same(marks, ["a b.pdf#page=3"], tmp_path)


def test_heic_is_read(tmp_path: Path) -> None:
    heif: Any = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: prefixkv[formats]")
    picture = Image.new("RGB", (64, 32), "red")
    heif.from_pillow(picture).save(tmp_path / "a.heic")
    found = open_image(tmp_path / "a.heic")
    assert (found.mode, found.size) == ("RGB", (64, 32))
    red, green, blue = found.getpixel((32, 16))
    assert red > 240
    assert max(green, blue) < 15
    assert found.info == {"name": str(tmp_path / "a.heic")}
    data = (tmp_path / "a.heic").read_bytes()
    for broken in (data[:100], data[: len(data) // 2], data[:64] + bytes(len(data) - 64)):
        with pytest.raises(PrefixKVError, match="broken or cut off"):
            decode_image(broken, "x.heic")


def test_heic_with_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif: Any = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed: prefixkv[formats]")
    heif.from_pillow(Image.new("RGB", (64, 32), "red")).save(tmp_path / "a.heic")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PrefixKVError, match="2,048 pixels, more than the limit of 1,000"):
        open_image(tmp_path / "a.heic")
