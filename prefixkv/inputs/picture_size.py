"""A limit on a picture's pixels: a larger one is scaled down before the model's processor sees it.

Knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from PIL import Image

from prefixkv.errors import OptionError
from prefixkv.inputs.images import MOST_ELONGATED
from prefixkv.pixels import LEAST_PIXELS


def check_max_pixels(limit: int | None) -> int | None:
    """The limit as it was given.

    Args:
        limit: most pixels of a picture; None for no limit.

    Raises:
        OptionError: it is below `LEAST_PIXELS`.
    """
    if limit is not None and limit < LEAST_PIXELS:
        raise OptionError(f"max-pixels {limit} is too small: give {LEAST_PIXELS:,} or more, such as 1000000")
    return limit


def within_pixels(image: Image.Image, limit: int | None) -> Image.Image:
    """The picture with no more pixels than the limit, its sides in the same proportion as near as pixels allow.

    Args:
        image: RGB.
        limit: most pixels; None for no limit.

    Returns:
        The same object where it is small enough.
    """
    if limit is None or image.width * image.height <= limit:
        return image
    scale = math.sqrt(limit / (image.width * image.height))
    shorter = max(1, int(min(image.size) * scale))
    longer = min(int(max(image.size) * scale), limit // shorter, MOST_ELONGATED * shorter)
    size = (longer, shorter) if image.width >= image.height else (shorter, longer)
    smaller = image.resize(size, Image.Resampling.LANCZOS)
    smaller.info = dict(image.info)
    return smaller


def scaled_down(
    pictures: Sequence[Image.Image], limit: int | None, notify: Callable[[str], None]
) -> tuple[Image.Image, ...]:
    """The pictures, none with more pixels than the limit.

    Args:
        pictures: RGB.
        limit: most pixels of each; None for no limit.
        notify: called with one line for each that was larger.
    """
    scaled = tuple(within_pixels(picture, limit) for picture in pictures)
    for before, after in zip(pictures, scaled, strict=True):
        if after is not before:
            notify(
                f"{before.info.get('name', 'the picture')} ({before.width} x {before.height}) is scaled down to "
                f"{after.width} x {after.height} pixels"
            )
    return scaled
