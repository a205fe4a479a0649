"""HEIC pictures, as telephones take them; read by pillow-heif, which comes with `prefixkv[formats]`.

Knows nothing of torch.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from prefixkv.errors import PrefixKVError

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")


def is_heic(head: bytes) -> bool:
    """Whether a file is HEIC by its first bytes, 64 of them; one that is AVIF as well is read as that."""
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS and b"avif" not in head[12:64]


def read_heic(source: Path | bytes, name: str, most_pixels: int) -> Image.Image:
    """The picture, upright.

    Args:
        source: a file, or its content.
        name: what the user calls it.
        most_pixels: above which it is not decoded.

    Raises:
        PrefixKVError: pillow-heif is not installed, or there are too many pixels.
        Exception: of many kinds, of pillow-heif, where the file is broken.
    """
    try:
        import pillow_heif
    except ImportError:
        raise PrefixKVError(
            f"image {name!r} is HEIC: install `prefixkv[formats]` to read it, or save it as JPEG or PNG"
        ) from None
    opened = pillow_heif.open_heif(source, convert_hdr_to_8bit=True)
    width, height = opened.size
    if width * height > most_pixels:
        raise PrefixKVError(
            f"image {name!r} has {width * height:,} pixels, more than the limit of {most_pixels:,}: make it smaller"
        )
    # Rotations are part of decoding; the camera's note of them, which says the same once more, is not looked at.
    image: Image.Image = opened.to_pillow()
    return image
