"""Pictures of coloured shapes on a four by four grid, drawn from a seed, the same everywhere; no torch in here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from prefixkv.demo.glyphs import LETTERS, SHAPES, letter_mask, shape_mask

IMAGE_PIXELS = 336
GRID = 4
CELL_PIXELS = IMAGE_PIXELS // GRID
MIN_OBJECTS, MAX_OBJECTS = 3, 12

COLOURS = {
    "red": (222, 36, 36),
    "orange": (248, 138, 20),
    "yellow": (246, 224, 40),
    "green": (34, 150, 54),
    "cyan": (40, 206, 214),
    "blue": (36, 70, 220),
    "purple": (132, 44, 176),
    "pink": (250, 130, 190),
}
SIZES = {"small": (26, 34), "large": (54, 66)}

# Everything that training reads has a seed from here on; every public test set stays below.
TRAINING_SEED_START = 10**12

_SCENE_STREAM = 7001


@dataclass(frozen=True)
class SceneObject:
    """One drawn object.

    Attributes:
        shape: One of `SHAPES`.
        colour: A key of `COLOURS`.
        size: `small` or `large`.
        row: Grid row, 0 at the top.
        column: Grid column, 0 at the left.
        letter: The capital letter drawn on it, or None.
        box: Left, top, right, bottom in pixels, right and bottom exclusive.
    """

    shape: str
    colour: str
    size: str
    row: int
    column: int
    letter: str | None
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and what is in it.

    Attributes:
        seed: The seed it was drawn from.
        image: RGB picture, 336 x 336 pixels.
        objects: The objects in reading order (by row, then by column).
        background: `light` or `dark`.
    """

    seed: int
    image: Image.Image
    objects: tuple[SceneObject, ...]
    background: str

    def at(self, row: int, column: int) -> SceneObject | None:
        """The object in a grid cell, or None."""
        return next((item for item in self.objects if (item.row, item.column) == (row, column)), None)


def draw_scene(seed: int) -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: Any non-negative integer; the bundled model was trained on seeds from `TRAINING_SEED_START` on.

    Returns:
        The picture with its objects.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_SCENE_STREAM, seed])))
    objects = _place_objects(rng)
    background = ("light", "dark")[int(rng.integers(2))]
    pixels = _draw_background(rng, background)
    for item in objects:
        _draw_object(rng, pixels, item)
    _add_noise(rng, pixels)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return Scene(seed=seed, image=image, objects=objects, background=background)


def _choose(rng: np.random.Generator, pool: tuple[str, ...], count: int) -> list[str]:
    order = np.argsort(rng.random(len(pool)), kind="stable")
    return [pool[index] for index in order[:count]]


def _place_objects(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    cells = np.sort(np.argsort(rng.random(GRID * GRID), kind="stable")[:count])
    # A narrow palette in some scenes makes counts above two common; a wide one keeps unique objects common.
    shapes = _choose(rng, SHAPES, int(rng.integers(2, len(SHAPES) + 1)))
    colours = _choose(rng, tuple(COLOURS), int(rng.integers(2, len(COLOURS) + 1)))
    large_share = (0.35, 0.5, 0.65)[int(rng.integers(3))]
    plain = []
    for cell in cells:
        shape = shapes[int(rng.integers(len(shapes)))]
        colour = colours[int(rng.integers(len(colours)))]
        size = "large" if rng.random() < large_share else "small"
        side = int(rng.integers(SIZES[size][0], SIZES[size][1] + 1))
        row, column = divmod(int(cell), GRID)
        free = CELL_PIXELS - side - 4
        left = column * CELL_PIXELS + 2 + int(rng.integers(free + 1))
        top = row * CELL_PIXELS + 2 + int(rng.integers(free + 1))
        plain.append((shape, colour, size, row, column, (left, top, left + side, top + side)))
    # Only large objects carry letters: on a small one the strokes would be thinner than the model can read.
    large = [index for index, item in enumerate(plain) if item[2] == "large"]
    wanted = int(rng.integers(5))
    bearers = [large[index] for index in np.argsort(rng.random(len(large)), kind="stable")[:wanted]]
    letters = dict(zip(bearers, _choose(rng, tuple(LETTERS), len(bearers)), strict=True))
    return tuple(SceneObject(*item[:5], letters.get(index), item[5]) for index, item in enumerate(plain))


def _draw_background(rng: np.random.Generator, background: str) -> np.ndarray:
    low, high = (196, 240) if background == "light" else (14, 56)
    base = int(rng.integers(low, high)) + rng.integers(-10, 11, size=3)
    pixels = np.empty((IMAGE_PIXELS, IMAGE_PIXELS, 3), dtype=np.int16)
    pixels[:] = base
    if rng.random() < 0.5:
        ramp = np.arange(IMAGE_PIXELS, dtype=np.int32) - IMAGE_PIXELS // 2
        across, down = (int(value) for value in rng.integers(-20, 21, size=2))
        slope = (ramp[None, :] * across + ramp[:, None] * down) // IMAGE_PIXELS
        pixels += slope[:, :, None].astype(np.int16)
    return pixels


def _draw_object(rng: np.random.Generator, pixels: np.ndarray, item: SceneObject) -> None:
    left, top, right, bottom = item.box
    mask = shape_mask(item.shape, right - left)
    colour = (np.array(COLOURS[item.colour]) + rng.integers(-10, 11, size=3)).astype(np.int16)
    region = pixels[top:bottom, left:right]
    region += ((colour - region).astype(np.int32) * mask >> 8).astype(np.int16)
    if item.letter is None:
        return
    strokes, halo = letter_mask(item.letter)
    height, width = strokes.shape[:2]
    # A triangle is wide at its foot, so its letter sits lower.
    lowered = (bottom - top) // 7 if item.shape == "triangle" else 0
    y = (top + bottom - height) // 2 + lowered
    x = (left + right - width) // 2
    bright = int(colour @ np.array([3, 6, 1])) // 10 > 120
    region = pixels[y : y + height, x : x + width]
    np.copyto(region, 245 if bright else 12, where=halo)
    np.copyto(region, 12 if bright else 245, where=strokes)


def _add_noise(rng: np.random.Generator, pixels: np.ndarray) -> None:
    bits = (0, 3, 4, 5)[int(rng.integers(4))]
    if bits:
        raw = np.frombuffer(rng.bytes(pixels.size), dtype=np.uint8).reshape(pixels.shape)
        pixels += (raw >> (8 - bits)).astype(np.int16) - (1 << (bits - 1))
