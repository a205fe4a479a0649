"""`/show`: in the terminal, which patches of the pictures are kept, each in its own colour of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from prefixkv.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from prefixkv.chat.kept_patches import KeptPatches

GLYPHS = "·░▒▓█"
"""From a patch that no kv head keeps to one that all keep."""


def kept_view(pictures: list[KeptPatches], layer: int | None, width: int) -> Group:
    """A map of each picture with its legend.

    Args:
        pictures: from `kept_patches`.
        layer: which one; the mean of all where None.
        width: columns that there are.

    Raises:
        OptionError: the model has no such layer.
    """
    layers = len(pictures[0].kept)
    if layer is not None and not 0 <= layer < layers:
        raise OptionError(f"layer {layer} is none of this model's: give 0 to {layers - 1}")
    return Group(*(_map(picture, layer, width) for picture in pictures), _legend(layer, layers))


def _map(picture: KeptPatches, layer: int | None, width: int) -> Text:
    kept = picture.kept.mean(axis=0) if layer is None else picture.kept[layer]
    rows, columns = kept.shape
    colours = _colours(picture.pixels, rows, columns)
    # A cell of a terminal is about twice as high as wide.
    cells = 2 if columns * 2 <= width else 1
    text = Text(no_wrap=True, overflow="crop")
    for row in range(rows):
        for column in range(columns):
            share = float(kept[row, column])
            glyph = GLYPHS[0] if share == 0 else GLYPHS[1 + min(3, int(share * 4))]
            red, green, blue = colours[row, column]
            text.append(glyph * cells, style="dim" if share == 0 else f"rgb({red},{green},{blue})")
        text.append("\n")
    return text


def _colours(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(rows, columns, 3), uint8: the mean colour of every patch of (height, width, 3)."""
    import numpy
    from PIL import Image

    return numpy.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BOX))


def _legend(layer: int | None, layers: int) -> Text:
    which = (
        f"the mean of {layers} layers; /show 0 to /show {layers - 1} are single ones"
        if layer is None
        else f"layer {layer}"
    )
    return Text(f"{GLYPHS[0]} kept by no kv head, {GLYPHS[1]} by few, {GLYPHS[-1]} by all: {which}", style="dim")
