"""Dense labels of the vision tower on documents: which characters lie under each patch, and where; no torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefixkv.demo.documents.document import Document
from prefixkv.demo.scenes import IMAGE_PIXELS
from tools.demo.labels import PATCHES
from tools.demo.model import PATCH_PIXELS

SLOTS = 3
CLASSES = 96
"""No character, the 94 printable ones, and the space; lines, places and values count from 1 on."""
LETTER_LABELS = (*(f"character_{slot}" for slot in range(SLOTS)), "before", "after", "line", "place")
MARK_LABELS = ("value", "index")
LABELS = (*LETTER_LABELS, *MARK_LABELS)
UNKNOWN = 255

_SPACE = CLASSES - 1


def no_labels() -> np.ndarray:
    """Labels of a picture that is no document.

    Returns:
        uint8 array (576, 1 + len(LABELS)).
    """
    return np.full((PATCHES * PATCHES, 1 + len(LABELS)), UNKNOWN, dtype=np.uint8)


def patch_labels(document: Document) -> np.ndarray:
    """What every patch of a document has to tell.

    Returns:
        uint8 array (576, 1 + len(LABELS)) in raster order: whether the middle of a character lies in the patch, then
        `LABELS`; `UNKNOWN` where there is nothing to tell.
    """
    table = no_labels()
    table[:, 0] = 0
    across, down = (IMAGE_PIXELS / side / PATCH_PIXELS for side in document.image.size)
    texts: dict[int, dict[int, str]] = {}
    under: dict[int, list[int]] = {}
    for index, letter in enumerate(document.letters):
        texts.setdefault(letter.line, {})[letter.place] = letter.character
        row, column = int(letter.y * down), int(letter.x * across)
        if 0 <= row < PATCHES and 0 <= column < PATCHES:
            under.setdefault(row * PATCHES + column, []).append(index)
    for patch, indices in under.items():
        found = sorted((document.letters[index] for index in indices), key=lambda letter: letter.x)
        first, last = found[0], found[-1]
        text = texts[first.line]
        table[patch] = _row(
            [_class(letter.character) for letter in found[:SLOTS]],
            _class(text.get(first.place - 1, " ")),
            _class(texts[last.line].get(last.place + 1, " ")),
            min(first.line + 1, CLASSES - 1),
            min(first.place + 1, CLASSES - 1),
        )
    for mark in document.marks:
        row, column = int(mark.y * down), int(mark.x * across)
        for near in (row - 1, row, row + 1):
            if 0 <= near < PATCHES and 0 <= column < PATCHES:
                table[near * PATCHES + column, -len(MARK_LABELS) :] = mark.value, mark.index
    return table


def _row(characters: Sequence[int], before: int, after: int, line: int, place: int) -> list[int]:
    slots = [*characters, *[0] * (SLOTS - len(characters))]
    return [1, *slots, before, after, line, place, *[UNKNOWN] * len(MARK_LABELS)]


def _class(character: str) -> int:
    return _SPACE if character == " " else ord(character) - 32
