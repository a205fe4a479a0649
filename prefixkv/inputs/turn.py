"""One question of a conversation, with its pictures where they stand in it, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from prefixkv.errors import OptionError

Layout = tuple[str | None, ...]
"""The texts of a question in their order, and None at the place of each of its pictures."""


@dataclass(eq=False, slots=True)
class Turn:
    """One question with its images, and the answer once there is one.

    Attributes:
        prompt: the question; all of its texts.
        images: its pictures, in order.
        answer: None until there is one.
        layout: where the pictures stand in the text; None where all of them come before it.

    Raises:
        OptionError: the question is no text.
    """

    prompt: str
    images: tuple[Image.Image, ...] = ()
    answer: str | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        """Refuse what is no text."""
        if not isinstance(self.prompt, str):
            raise OptionError(f"the question is {repr(self.prompt)[:200]}, which is no text: give a str")

    @property
    def content(self) -> Layout:
        """The texts, and None at the place of each picture."""
        return (*(None for _ in self.images), self.prompt) if self.layout is None else self.layout

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The same as `prefixkv.inputs.parts.read_parts` takes it."""
        pictures = iter(self.images)
        return [{"image": next(pictures)} if part is None else {"text": part} for part in self.content]

    @property
    def has_pictures_within(self) -> bool:
        """Whether a picture comes behind a text."""
        texts = [part is not None for part in self.content]
        return texts != sorted(texts)

    def pictures_first(self) -> Turn:
        """The same with its pictures before its texts."""
        texts = tuple(part for part in self.content if part is not None)
        return replace(self, layout=(*(None for _ in self.images), *texts))

    def with_first_images(self, count: int) -> Turn:
        """The same with no more than so many of its pictures."""
        images = self.images[: max(count, 0)]
        if self.layout is None:
            return replace(self, images=images)
        left, layout = len(images), []
        for part in self.layout:
            if part is not None or left > 0:
                layout.append(part)
                left -= part is None
        return replace(self, images=images, layout=tuple(layout))


def prompt_of(layout: Layout) -> str:
    """All texts of a question as one."""
    return " ".join(text for part in layout if part is not None and (text := part.strip()))
