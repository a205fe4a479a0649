"""Ctrl-C between two pieces of an answer instead of within a step of the model."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import closing
from types import FrameType


def stoppable(pieces: Generator[str, None, None]) -> Generator[str, None, None]:
    """Hand the pieces on; Ctrl-C ends them after the one that is being made.

    Within a step it would leave some layers of the cache a token ahead of the others, and the whole conversation would
    have to be read again. Who cannot wait presses it twice.

    Args:
        pieces: a generator; closed here.

    Raises:
        KeyboardInterrupt: in place of the next piece.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        with closing(pieces):
            for piece in pieces:
                yield piece
                if pressed:
                    raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)
