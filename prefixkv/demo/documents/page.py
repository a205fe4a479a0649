"""A sheet of paper: text is set on it letter by letter, then it is turned, made noisy and pressed as JPEG."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from prefixkv.demo.documents.faces import FACES, load_face, width
from prefixkv.demo.phrasing import Chooser

_MOST_DEGREES = 3.0
_MIDDLE_OF_LETTERS = 0.3
"""Height above the baseline of the middle between capitals and small letters, in ems."""

Colour = tuple[int, int, int]
_Spot = TypeVar("_Spot", "Letter", "Mark")


@dataclass(frozen=True)
class Letter:
    """One drawn character that is no space.

    Attributes:
        character: the character.
        x: across, in pixels, of its middle.
        y: down, in pixels, of its middle.
        line: line of the text that it belongs to, from 0 on.
        place: its place in this line, spaces counted, from 0 on.
    """

    character: str
    x: float
    y: float
    line: int
    place: int


@dataclass(frozen=True)
class Mark:
    """A value of a chart where it is drawn: the middle of a bar's upper edge, or a point.

    Attributes:
        value: whole number.
        index: which of the chart's values it is, from 0 on.
        x: across, in pixels.
        y: down, in pixels.
    """

    value: int
    index: int
    x: float
    y: float


class Page:
    """A sheet with its ink, its face, and the letters and marks on it so far.

    Args:
        choose: chooses paper, ink, face and size.
        is_loud: strong colours, as of a sign.
    """

    def __init__(self, choose: Chooser, is_loud: bool = False) -> None:
        self.width, self.height = (336, 336) if choose.chance(0.3) else _other_size(choose)
        self.face = choose.one(FACES)
        self.paper, self.ink = _loud_colours(choose) if is_loud else _quiet_colours(choose)
        self.image = Image.new("RGB", (self.width, self.height), self.paper)
        self.draw = ImageDraw.Draw(self.image)
        self.letters: list[Letter] = []
        self.marks: list[Mark] = []

    def text_width(self, text: str, pixels: int) -> float:
        """Width of a text in pixels."""
        return width(self.face, text) * pixels

    def write(self, text: str, x: float, baseline: float, pixels: int, line: int, place: int = 0) -> None:
        """Set a text from `x` on along a baseline.

        Args:
            text: what to write.
            x: left edge in pixels.
            baseline: of the letters, in pixels from the top.
            pixels: size of the face.
            line: number of the line that the text belongs to.
            place: place of its first character in this line.
        """
        self.draw.text((x, baseline), text, fill=self.ink, font=load_face(self.face, pixels), anchor="ls")
        middle = baseline - _MIDDLE_OF_LETTERS * pixels
        for index, character in enumerate(text):
            wide = self.text_width(character, pixels)
            if character != " ":
                self.letters.append(Letter(character, x + wide / 2, middle, line, place + index))
            x += wide

    def finish(self, choose: Chooser) -> tuple[Image.Image, tuple[Letter, ...], tuple[Mark, ...]]:
        """The picture as a camera would give it, and where its letters and marks lie in it."""
        letters, marks, image = self.letters, self.marks, self.image
        if choose.chance(0.5):
            degrees = _MOST_DEGREES * (choose.below(2001) - 1000) / 1000
            image = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=self.paper)
            letters = [_turned(letter, degrees, self.width, self.height) for letter in letters]
            marks = [_turned(mark, degrees, self.width, self.height) for mark in marks]
        levels = (0, 0, 6, 12, 20)[choose.below(5)]
        if levels:
            noise = np.random.Generator(np.random.PCG64(choose.below(2**31))).integers(
                -levels, levels + 1, (self.height, self.width, 1), dtype=np.int16
            )
            image = Image.fromarray(np.clip(np.asarray(image, dtype=np.int16) + noise, 0, 255).astype(np.uint8))
        if choose.chance(0.4):
            pressed = io.BytesIO()
            image.save(pressed, "JPEG", quality=40 + choose.below(56))
            image = Image.open(pressed).convert("RGB")
        return image, tuple(letters), tuple(marks)


def _turned(spot: _Spot, degrees: float, wide: int, high: int) -> _Spot:
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    across, down = spot.x - wide / 2, spot.y - high / 2
    return replace(spot, x=wide / 2 + across * cosine + down * sine, y=high / 2 - across * sine + down * cosine)


def _other_size(choose: Chooser) -> tuple[int, int]:
    wide = 300 + choose.below(221)
    return wide, int(wide * (88 + choose.below(25)) / 100)


def _grey(choose: Chooser, low: int, high: int, spread: int) -> Colour:
    base = low + choose.below(high - low)
    red, green, blue = (min(255, max(0, base + choose.below(2 * spread + 1) - spread)) for _ in range(3))
    return red, green, blue


def _quiet_colours(choose: Chooser) -> tuple[Colour, Colour]:
    paper, ink = _grey(choose, 215, 250, 14), _grey(choose, 5, 75, 30)
    return (ink, paper) if choose.chance(0.12) else (paper, ink)


def _loud_colours(choose: Chooser) -> tuple[Colour, Colour]:
    paper = choose.one(((180, 30, 30), (20, 80, 160), (20, 110, 60), (60, 60, 60), (110, 40, 120)))
    colours = paper, choose.one(((255, 255, 255), (250, 240, 200)))
    if choose.chance(0.3):
        colours = choose.one(((250, 205, 40), (245, 245, 245), (250, 160, 60))), (15, 15, 15)
    return colours
