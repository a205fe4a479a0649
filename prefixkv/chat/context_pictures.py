"""The pictures of a saved context: lossless PNG, checked against what the head says of them. Knows nothing of torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import check_shape, decode_image, picture_sha256


def png_of(image: Image.Image) -> bytes:
    """The picture as a file's content, lossless; compressed a little, since writing must not take long."""
    data = io.BytesIO()
    image.save(data, format="PNG", compress_level=1)
    return data.getvalue()


def picture_of(data: bytes, facts: Mapping[str, Any]) -> Image.Image:
    """The picture, RGB, fully decoded.

    Args:
        data: from `png_of`.
        facts: what the head says of it: `name`, `width`, `height` and `sha256` of its pixels.

    Raises:
        ValueError: it is no picture, or another than the head says.
    """
    name = facts["name"]
    try:
        header = Image.open(io.BytesIO(data), formats=("PNG",))
        if (header.mode, *header.size) != ("RGB", facts["width"], facts["height"]):
            raise ValueError(f"picture {name!r} is not as large as it is said to be")
        check_shape(header, name)
        image = decode_image(data, name)
    # What Pillow raises for a header that is none is of many kinds, and so it is where there are too many pixels.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            reason if isinstance(error, (PrefixKVError, ValueError)) else f"picture {name!r} is none"
        ) from None
    if picture_sha256(image) != facts["sha256"]:
        raise ValueError(f"picture {name!r} has other pixels than it is said to have")
    return image
