"""Dense labels of the vision tower: what object lies under each patch, and what lies around it; no torch here."""

from __future__ import annotations

import numpy as np

from prefixkv.demo.glyphs import LETTERS, SHAPES
from prefixkv.demo.scenes import COLOURS, GRID, IMAGE_PIXELS, MAX_OBJECTS, SIZES, Scene, SceneObject
from tools.demo.model import PATCH_PIXELS

PATCHES = IMAGE_PIXELS // PATCH_PIXELS
BACKGROUND = 255

_NEIGHBOURS = {"below": (1, 0), "above": (-1, 0), "right": (0, 1), "left": (0, -1)}
_COLOURS = tuple(COLOURS)
_SIZES = tuple(SIZES)

# What every object patch must tell, and how many values it has; class 0 means "none" where there can be none.
ATTRIBUTES: dict[str, int] = {
    "shape": len(SHAPES),
    "colour": len(_COLOURS),
    "size": len(_SIZES),
    "row": GRID,
    "column": GRID,
    "letter": len(LETTERS) + 1,
    "same_shape": MAX_OBJECTS + 1,
    "same_colour": MAX_OBJECTS + 1,
    "total": MAX_OBJECTS + 1,
    **{f"{side}_shape": len(SHAPES) + 1 for side in _NEIGHBOURS},
    **{f"{side}_colour": len(_COLOURS) + 1 for side in _NEIGHBOURS},
}
# The attributes that one patch cannot know without looking at the rest of the picture.
CONTEXTUAL = tuple(name for name in ATTRIBUTES if "_" in name or name == "total")


def patch_objects(scene: Scene) -> np.ndarray:
    """Which object covers the middle of each patch.

    Returns:
        uint8 array (576,) in raster order: index into `scene.objects`, or `BACKGROUND`.
    """
    grid = np.full((PATCHES, PATCHES), BACKGROUND, dtype=np.uint8)
    half = PATCH_PIXELS // 2
    for index, item in enumerate(scene.objects):
        left, top, right, bottom = (-(-(edge - half) // PATCH_PIXELS) for edge in item.box)
        grid[top:bottom, left:right] = index
    return grid.reshape(-1)


def object_attributes(scene: Scene) -> np.ndarray:
    """The attribute classes of every object.

    Returns:
        uint8 array (12, len(ATTRIBUTES)); rows past the last object are 0.
    """
    table = np.zeros((MAX_OBJECTS, len(ATTRIBUTES)), dtype=np.uint8)
    shapes = [item.shape for item in scene.objects]
    colours = [item.colour for item in scene.objects]
    for index, item in enumerate(scene.objects):
        around = [scene.at(item.row + down, item.column + right) for down, right in _NEIGHBOURS.values()]
        table[index] = [
            SHAPES.index(item.shape),
            _COLOURS.index(item.colour),
            _SIZES.index(item.size),
            item.row,
            item.column,
            0 if item.letter is None else LETTERS.index(item.letter) + 1,
            shapes.count(item.shape),
            colours.count(item.colour),
            len(scene.objects),
            *[_class_or_none(other, "shape", SHAPES) for other in around],
            *[_class_or_none(other, "colour", _COLOURS) for other in around],
        ]
    return table


def _class_or_none(item: SceneObject | None, attribute: str, known: tuple[str, ...]) -> int:
    return 0 if item is None else known.index(getattr(item, attribute)) + 1
