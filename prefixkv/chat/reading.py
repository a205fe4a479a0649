"""What a cache has read, token by token. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

TEXT, PICTURE, GENERATED = range(3)
"""Kinds of token: of the prompt's text, of a picture, written by the model."""


@dataclass
class Reading:
    """The tokens behind a cache's positions.

    Attributes:
        tokens: token ids; the index is the position.
        kinds: one of `TEXT`, `PICTURE`, `GENERATED` for each. An answer that is read again as part of a prompt is text.
        images: pictures among them.
    """

    tokens: list[int] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    images: int = 0

    def add(self, tokens: Iterable[int], picture_token: int | None, generated: bool = False) -> None:
        """Note what was read.

        Args:
            tokens: token ids.
            picture_token: the id that stands for a part of a picture; None for a model without pictures.
            generated: whether the model wrote them.
        """
        for token in tokens:
            self.tokens.append(token)
            self.kinds.append(PICTURE if token == picture_token else GENERATED if generated else TEXT)

    def copy(self) -> Reading:
        """The same, to be changed apart."""
        return Reading(list(self.tokens), bytearray(self.kinds), self.images)
