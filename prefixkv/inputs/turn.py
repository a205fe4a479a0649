"""One question of a conversation, with its pictures where they stand in it, and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(eq=False)
class Turn:
    """One question with its images, and the answer once there is one."""

    prompt: str
    images: tuple[Image.Image, ...] = ()
    answer: str | None = None
