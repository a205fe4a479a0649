"""Open a picture so that what comes out can be used, or say in one line why not. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from prefixkv.errors import PictureTooLargeError, PrefixKVError
from prefixkv.inputs.heic import is_heic, read_heic
from prefixkv.inputs.pdf_page import SIGNATURE as PDF_SIGNATURE
from prefixkv.inputs.pdf_page import draw_page
from prefixkv.inputs.png_chunks import SIGNATURE, without_side_chunks

if TYPE_CHECKING:
    import numpy as np

Picture = Image.Image | str | Path | bytes

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is opened, by Pillow's names; its other readers start programs or are rarely met."""
MOST_ELONGATED = 100
"""A longer side than so many times the shorter one is refused: models enlarge the shorter, and the whole with it."""


_HEAD_BYTES = 64


def open_image(path: str | Path, page: int | None = None) -> Image.Image:
    """Read a picture from disk as RGB, upright, fully decoded.

    Transparent pixels are laid on white; of an animation the first frame is taken.

    Args:
        path: a file in one of `FORMATS`; HEIC or PDF where `prefixkv[formats]` is installed.
        page: of a PDF file, from 1 on; None for its only one.

    Returns:
        The picture; `info["name"]` is the path, with the page.

    Raises:
        PrefixKVError: the file is missing, unreadable, broken, no picture, or too large.
    """
    path = Path(path)
    check_file(path)
    return _decode(path, str(path), page)


def check_file(path: Path) -> None:
    """Refuse what is no file that could hold a picture, without reading it.

    Raises:
        PrefixKVError: nothing is there, or no regular file, or an empty one.
    """
    try:
        is_there = path.exists()
    # A name that is too long, or has a NUL in it, is none that a file can have.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PrefixKVError(f"image {str(path)[:100]!r} cannot be opened ({reason}): check the path") from error
    if path.is_dir():
        raise PrefixKVError(f"image {str(path)!r} is a folder: give a picture file")
    if not is_there:
        raise PrefixKVError(f"image {str(path)!r} does not exist: check the path")
    if not path.is_file():
        raise PrefixKVError(f"image {str(path)!r} is no regular file: save the picture to a file first")
    if path.stat().st_size == 0:
        raise PrefixKVError(f"image {str(path)!r} is empty (0 bytes): save or download it again")


def decode_image(data: bytes, name: str, page: int | None = None) -> Image.Image:
    """A picture from its file's content, as `open_image` returns it.

    Args:
        data: content of a file, see `open_image`.
        name: what the user calls it.
        page: see `open_image`.

    Raises:
        PrefixKVError: the data is broken, no picture, or too large.
    """
    if not data:
        raise PrefixKVError(f"image {name!r} is empty (0 bytes): save or download it again")
    return _decode(data, name, page)


def as_pictures(given: Picture | Sequence[Picture] | None) -> tuple[Image.Image, ...]:
    """Pictures as a user of the library gives them: none, one, or several.

    Args:
        given: each a picture of Pillow, a path, or the content of a picture file.

    Returns:
        RGB, upright.

    Raises:
        PrefixKVError: one cannot be read, or is none of these.
    """
    if given is None:
        return ()
    is_one = isinstance(given, (Image.Image, str, Path, bytes, bytearray, memoryview))
    several: Any = [given] if is_one or not isinstance(given, Iterable) else given
    return tuple(_as_picture(picture) for picture in several)


def _as_picture(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        check_shape(picture, str(picture.info.get("name", "given")))
        return picture if picture.mode == "RGB" else _to_rgb(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return decode_image(bytes(picture), "given")
    if isinstance(picture, (str, Path)):
        return open_image(picture)
    raise PrefixKVError(f"a picture is given as {type(picture).__name__}: give a PIL image, a path, or a file's bytes")


def check_shape(image: Image.Image, name: str) -> None:
    """Refuse a picture of which a model would make a huge one.

    Raises:
        PrefixKVError: one side is more than `MOST_ELONGATED` times the other.
    """
    shorter, longer = sorted(image.size)
    if longer > MOST_ELONGATED * shorter:
        raise PrefixKVError(
            f"image {name!r} has {image.width:,} x {image.height:,} pixels, and one side may be at most "
            f"{MOST_ELONGATED} times the other: cut out the part that matters"
        )


def picture_sha256(image: Image.Image) -> str:
    """Hex digest of a picture's size and pixels, whatever file they came in."""
    header = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def picture_facts(image: Image.Image) -> dict[str, Any]:
    """By which a picture is known again, wherever its file is: `sha256` of its pixels, `width` and `height`."""
    return {"sha256": picture_sha256(image), "width": image.width, "height": image.height}


def _decode(source: Path | bytes, name: str, page: int | None) -> Image.Image:
    try:
        head = _head(source)
        if head.startswith(PDF_SIGNATURE):
            return _named(draw_page(source, name, page), name if page is None else f"{name}#page={page}")
        if page is not None:
            raise PrefixKVError(f"image {name!r} is no PDF file, and has no pages: leave #page={page} out")
        if is_heic(head):
            return _named(_to_rgb(read_heic(source, name, Image.MAX_IMAGE_PIXELS or sys.maxsize)), name)
        try:
            return _read(source, name)
        # What is beside its pixels may be longer than Pillow reads, or broken, where they are whole.
        except (ValueError, SyntaxError, OSError) as error:
            data = source if isinstance(source, bytes) else source.read_bytes()
            plain = without_side_chunks(data) if data.startswith(SIGNATURE) else data
            if len(plain) == len(data):
                raise
            try:
                return _read(plain, name)
            except (ValueError, SyntaxError, OSError):
                raise error from None
    except PermissionError as error:
        raise PrefixKVError(f"image {name!r} may not be read: check its permissions") from error
    except UnidentifiedImageError as error:
        raise PrefixKVError(
            f"image {name!r} is no picture that can be read: give a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file; with "
            "`prefixkv[formats]` also HEIC or a page of a PDF file"
        ) from error
    except PrefixKVError:
        raise
    # Pillow's decoders raise errors of many kinds on broken data (OSError, SyntaxError, ValueError, struct.error, ...).
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PrefixKVError(f"image {name!r} is broken or cut off ({reason}): save or download it again") from error


def _head(source: Path | bytes) -> bytes:
    """The first bytes, by which formats are known."""
    if isinstance(source, bytes):
        return source[:_HEAD_BYTES]
    with source.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _named(image: Image.Image, name: str) -> Image.Image:
    """The picture, which is called so, if its shape is one that models bear."""
    check_shape(image, name)
    image.info = {"name": name}
    return image


def _read(source: Path | bytes, name: str) -> Image.Image:
    _verify(source, name)
    with _open(source, name) as image, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_shape(image, name)
        image.load()
        upright = _to_rgb(_turned(image), image.format)
        # What has drawn it tells the demo model's own documents from other pictures.
        upright.info = {"name": name, **{key: value for key, value in image.info.items() if key == "Software"}}
        return upright


def _turned(image: Image.Image) -> Image.Image:
    """The picture as its file says it is to be held; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    # Pillow parses these notes as a TIFF file, which may be broken in as many ways.
    except Exception:
        return image


def _open(source: Path | bytes, name: str) -> Image.Image:
    """Read the header only.

    Raises:
        PictureTooLargeError: the picture has more pixels than Pillow thinks safe to decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            pixels = re.search(r"\d+", str(error))
            count = f"{int(pixels[0]):,} pixels" if pixels else "too many pixels"
            raise PictureTooLargeError(
                f"image {name!r} has {count}, more than the limit of {Image.MAX_IMAGE_PIXELS:,}: make it smaller"
            ) from error


def _verify(source: Path | bytes, name: str) -> None:
    """Check a PNG to its last chunk: decoding alone is content once it has all pixels, even without their checksum."""
    with _open(source, name) as image:
        if image.format == "PNG":
            image.verify()


def _to_rgb(image: Image.Image, file_format: str | None = None) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        # Pillow cuts 16-bit grey at 255 where it is converted to RGB; of a PGM it has made 16 bits.
        image = _grey(_pixels(image.convert("I")) / 257)
    elif image.mode in ("I", "F"):
        image = _grey(_eight_bits(_pixels(image).astype("float64")))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _pixels(image: Image.Image) -> np.ndarray:
    # Here, since most pictures need no numpy, and loading it takes longer than looking at a thousand files.
    import numpy as np

    return np.asarray(image)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Numbers of a scanner, a microscope or a depth camera as grey from 0 to 255.

    No file says how bright its numbers are meant; their range does: 0 to 1, a byte, or two bytes. Others are stretched
    from the least to the largest. What is no number is black.
    """
    import numpy as np

    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if least >= 0 and most <= 65535:
        black, white = 0.0, next(white for white in (1.0, 255.0, 65535.0) if most <= white)
    else:
        black, white = least, most
    return np.nan_to_num((values - black) * (255 / (white - black or 1)), nan=0, posinf=255, neginf=0)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype("uint8"))
