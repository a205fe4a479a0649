"""Drawing a scene or document; whether a picture is one, which is all that the demo model knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefixkv.demo import SHAPES
from prefixkv.demo.documents import DOCUMENT_KINDS, SOFTWARE, SOFTWARE_FIELD
from prefixkv.errors import OptionError

if TYPE_CHECKING:
    from PIL import Image

_MOST_DEVIATION = 24
"""Noise moves a pixel by at most 16 levels; the rest is for rounding and for JPEG."""
_MOST_COLOUR = 40
"""Backgrounds are grey: their channels differ by at most 20 levels, before noise and JPEG."""

_MOST_SHADING = 60
"""A background may be brighter on one side by 20 levels in each direction."""
_GREYS = ((0, 75), (180, 252))
"""Brightness of dark and of light backgrounds, from 0 to 255."""


def draw_picture(kind: str, seed: int) -> Image.Image:
    """Draw a scene or document, RGB.

    Args:
        kind: `SHAPES`, or one of `DOCUMENT_KINDS`.
        seed: the same seed draws the same picture.

    Raises:
        OptionError: nothing of that kind is drawn.
    """
    if kind == SHAPES:
        from prefixkv.demo.scenes import draw_scene

        return draw_scene(seed).image
    if kind not in DOCUMENT_KINDS:
        raise OptionError(f"nothing of kind {kind!r} is drawn: give {', '.join((SHAPES, *DOCUMENT_KINDS))}")
    from prefixkv.demo.documents.document import draw_document

    return draw_document(seed, kind).image


def is_drawn_scene(image: Image.Image) -> bool:
    """Look at the frame of every grid cell, where a drawn scene has nothing but its grey, evenly shaded background.

    Args:
        image: RGB.
    """
    # Here, since a picture that says where it comes from is known without: who asks a server does not wait for numpy.
    import numpy as np

    from prefixkv.demo.scenes import CELL_PIXELS, GRID, IMAGE_PIXELS

    if image.size != (IMAGE_PIXELS, IMAGE_PIXELS):
        return False
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    edge = np.arange(GRID) * CELL_PIXELS
    lines = np.concatenate((edge, edge + CELL_PIXELS - 1))
    across, down = pixels[lines].reshape(-1, 3), pixels[:, lines].reshape(-1, 3)
    values = np.concatenate((across, down))
    every = np.arange(IMAGE_PIXELS)
    places = np.concatenate(
        (
            np.stack(np.meshgrid(lines, every, indexing="ij"), -1).reshape(-1, 2),
            np.stack(np.meshgrid(every, lines, indexing="ij"), -1).reshape(-1, 2),
        )
    )
    plane = np.column_stack((places, np.ones(len(places)))).astype(np.float32)
    shading, *_ = np.linalg.lstsq(plane, values, rcond=None)
    deviation = np.abs(values - plane @ shading)
    means = values.mean(axis=0)
    is_even = np.quantile(deviation, 0.99) <= _MOST_DEVIATION
    is_shaded = np.abs(shading[:2]).sum(axis=0).max() * IMAGE_PIXELS <= _MOST_SHADING
    is_grey = means.max() - means.min() <= _MOST_COLOUR
    return bool(is_even and is_shaded and is_grey and any(low <= means.mean() <= high for low, high in _GREYS))


def says_it_is_drawn(image: Image.Image) -> bool:
    """Whether the picture says that it is drawn here, as drawn documents do, and all that `demo-scene` writes."""
    return image.info.get(SOFTWARE_FIELD) == SOFTWARE


def strange_pictures(pictures: Sequence[Image.Image]) -> list[str]:
    """Names of the pictures that are neither drawn scenes nor drawn documents."""
    strange = (picture for picture in pictures if not (says_it_is_drawn(picture) or is_drawn_scene(picture)))
    return [str(picture.info.get("name", "the picture")) for picture in strange]


def say_strange(pictures: Sequence[Image.Image], notify: Callable[[str], None]) -> None:
    """Warn of pictures that the demo model will say something about, though it knows nothing of them.

    Args:
        pictures: RGB.
        notify: called with one line where there are such.
    """
    if names := strange_pictures(pictures):
        notify(strangeness(names))


def strangeness(names: Sequence[str]) -> str:
    """The warning.

    Args:
        names: of the pictures, at least one.
    """
    which = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    verb = "is no drawn scene or document" if len(names) == 1 else "are no drawn scenes or documents"
    return (
        f"{which} {verb}, and the bundled demo model knows nothing else: what it answers means nothing; give --model "
        "HuggingFaceTB/SmolVLM-500M-Instruct, llava or any other model that `prefixkv models` lists"
    )
