"""Masks of the shapes and letters that a scene is drawn with, made from formulas and bitmaps no font needed."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_SUPERSAMPLING = 4
_LETTER_SCALE = 4

# Five bits a row, seven rows a letter, most significant bit on the left.
_LETTER_ROWS = {
    "A": (0x0E, 0x11, 0x11, 0x1F, 0x11, 0x11, 0x11),
    "B": (0x1E, 0x11, 0x11, 0x1E, 0x11, 0x11, 0x1E),
    "C": (0x0E, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0E),
    "D": (0x1E, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1E),
    "E": (0x1F, 0x10, 0x10, 0x1E, 0x10, 0x10, 0x1F),
    "F": (0x1F, 0x10, 0x10, 0x1E, 0x10, 0x10, 0x10),
    "G": (0x0E, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0F),
    "H": (0x11, 0x11, 0x11, 0x1F, 0x11, 0x11, 0x11),
    "I": (0x1F, 0x04, 0x04, 0x04, 0x04, 0x04, 0x1F),
    "J": (0x01, 0x01, 0x01, 0x01, 0x01, 0x11, 0x0E),
    "K": (0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11),
    "L": (0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1F),
    "M": (0x11, 0x1B, 0x15, 0x15, 0x11, 0x11, 0x11),
    "N": (0x11, 0x19, 0x19, 0x15, 0x13, 0x13, 0x11),
    "O": (0x0E, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0E),
    "P": (0x1E, 0x11, 0x11, 0x1E, 0x10, 0x10, 0x10),
    "Q": (0x0E, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0D),
    "R": (0x1E, 0x11, 0x11, 0x1E, 0x14, 0x12, 0x11),
    "S": (0x0F, 0x10, 0x10, 0x0E, 0x01, 0x01, 0x1E),
    "T": (0x1F, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04),
    "U": (0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0E),
    "V": (0x11, 0x11, 0x11, 0x11, 0x0A, 0x0A, 0x04),
    "W": (0x11, 0x11, 0x11, 0x15, 0x15, 0x1B, 0x11),
    "X": (0x11, 0x11, 0x0A, 0x04, 0x0A, 0x11, 0x11),
    "Y": (0x11, 0x11, 0x0A, 0x04, 0x04, 0x04, 0x04),
    "Z": (0x1F, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1F),
}


def _star_corners() -> list[tuple[float, float]]:
    corners = []
    for index in range(10):
        radius = 1.0 if index % 2 == 0 else 0.42
        angle = math.pi * index / 5
        # Rounded, so that the last bit of a platform's sine cannot move a pixel.
        corners.append((round(radius * math.sin(angle), 6), round(-radius * math.cos(angle), 6)))
    return corners


def _inside_polygon(x: np.ndarray, y: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    inside = np.zeros(np.broadcast(x, y).shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 == y1:
            continue
        crossing = (y0 > y) != (y1 > y)
        inside ^= crossing & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


@lru_cache(maxsize=512)
def shape_mask(shape: str, size_pixels: int) -> np.ndarray:
    """The coverage of one shape.

    Args:
        shape: One of `SHAPES`.
        size_pixels: Side of the square box that the shape fills.

    Returns:
        Read-only int16 array (size_pixels, size_pixels, 1), 0 outside to 256 inside.
    """
    samples = size_pixels * _SUPERSAMPLING
    axis = (np.arange(samples) + 0.5) * (2.0 / samples) - 1.0
    x, y = axis[None, :], axis[:, None]
    radius = x * x + y * y
    if shape == "circle":
        inside = radius <= 1.0
    elif shape == "ring":
        inside = (radius <= 1.0) & (radius >= 0.36)
    elif shape == "square":
        inside = (np.abs(x) <= 0.88) & (np.abs(y) <= 0.88)
    elif shape == "cross":
        inside = ((np.abs(x) <= 0.34) | (np.abs(y) <= 0.34)) & (np.abs(x) <= 1.0) & (np.abs(y) <= 1.0)
    elif shape == "triangle":
        inside = _inside_polygon(x, y, [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)])
    elif shape == "star":
        inside = _inside_polygon(x, y, _star_corners())
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    blocks = inside.reshape(size_pixels, _SUPERSAMPLING, size_pixels, _SUPERSAMPLING)
    mask = (blocks.sum(axis=(1, 3)) * (256 // _SUPERSAMPLING**2)).astype(np.int16)[:, :, None]
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=26)
def letter_mask(letter: str) -> tuple[np.ndarray, np.ndarray]:
    """A letter and the halo that keeps it readable on any colour.

    Args:
        letter: One of `LETTERS`.

    Returns:
        Two read-only bool arrays (32, 24, 1): the strokes, and the strokes widened by two pixels.
    """
    rows = [[(bits >> (4 - column)) & 1 for column in range(5)] for bits in _LETTER_ROWS[letter]]
    strokes = np.kron(np.array(rows, dtype=bool), np.ones((_LETTER_SCALE, _LETTER_SCALE), dtype=bool))
    strokes = np.pad(strokes, 2)
    halo = strokes.copy()
    for axis in (0, 1):
        widened = halo.copy()
        for shift in (-2, -1, 1, 2):
            widened |= np.roll(halo, shift, axis=axis)
        halo = widened
    strokes, halo = strokes[:, :, None], halo[:, :, None]
    strokes.flags.writeable = False
    halo.flags.writeable = False
    return strokes, halo
