"""Open a picture so that what comes out can be used, or say in one line why not. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from prefixkv.errors import PrefixKVError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is opened, by Pillow's names; its other readers start programs or are rarely met."""


def open_image(path: str | Path) -> Image.Image:
    """Read a picture from disk as RGB, upright, fully decoded.

    Transparent pixels are laid on white; of an animation the first frame is taken.

    Args:
        path: a file in one of `FORMATS`.

    Returns:
        The picture; `info["name"]` is the path.

    Raises:
        PrefixKVError: the file is missing, unreadable, broken, no picture, or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise PrefixKVError(f"image {str(path)!r} is a folder: give a picture file")
    if not path.exists():
        raise PrefixKVError(f"image {str(path)!r} does not exist: check the path")
    if not path.is_file():
        raise PrefixKVError(f"image {str(path)!r} is no regular file: save the picture to a file first")
    if path.stat().st_size == 0:
        raise PrefixKVError(f"image {str(path)!r} is empty (0 bytes): save or download it again")
    return _decode(path, str(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """A picture from its file's content, as `open_image` returns it.

    Args:
        data: content of a file in one of `FORMATS`.
        name: what the user calls it.

    Raises:
        PrefixKVError: the data is broken, no picture, or too large.
    """
    if not data:
        raise PrefixKVError(f"image {name!r} is empty (0 bytes): save or download it again")
    return _decode(data, name)


def picture_sha256(image: Image.Image) -> str:
    """Hex digest of a picture's size and pixels, whatever file they came in."""
    header = f"{image.mode} {image.width} {image.height} ".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def _decode(source: Path | bytes, name: str) -> Image.Image:
    try:
        _verify(source, name)
        with _open(source, name) as image:
            image.load()
            upright = _to_rgb(ImageOps.exif_transpose(image))
            upright.info = {"name": name}
            return upright
    except PermissionError as error:
        raise PrefixKVError(f"image {name!r} may not be read: check its permissions") from error
    except UnidentifiedImageError as error:
        raise PrefixKVError(
            f"image {name!r} is no picture that can be read: give a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF file"
        ) from error
    except PrefixKVError:
        raise
    # Pillow's decoders raise errors of many kinds on broken data (OSError, SyntaxError, ValueError, struct.error, ...).
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PrefixKVError(f"image {name!r} is broken or cut off ({reason}): save or download it again") from error


def _open(source: Path | bytes, name: str) -> Image.Image:
    """Read the header only.

    Raises:
        PrefixKVError: the picture has more pixels than Pillow thinks safe to decode.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            pixels = re.search(r"\d+", str(error))
            count = f"{int(pixels[0]):,} pixels" if pixels else "too many pixels"
            raise PrefixKVError(
                f"image {name!r} has {count}, more than the limit of {Image.MAX_IMAGE_PIXELS:,}: make it smaller"
            ) from error


def _verify(source: Path | bytes, name: str) -> None:
    """Check a PNG to its last chunk: decoding alone is content once it has all pixels, even without their checksum."""
    with _open(source, name) as image:
        if image.format == "PNG":
            image.verify()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow cuts 16-bit grey at 255 where it is converted to RGB.
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
