"""What a cache has read, token by token. Knows nothing of torch."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

TEXT, PICTURE, GENERATED = range(3)
"""Kinds of token: of the prompt's text, of a picture, written by the model."""


@dataclass
class Reading:
    """The tokens behind a cache's positions.

    Attributes:
        tokens: token ids, in four bytes each; the index is the position.
        kinds: one of `TEXT`, `PICTURE`, `GENERATED` for each. An answer that is read again as part of a prompt is text.
        images: pictures among them.
    """

    tokens: array[int] = field(default_factory=lambda: array("i"))
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

    def mark(self) -> ReadingMark:
        """What was read until now; costs nothing, because what is read is only ever added to."""
        return ReadingMark(self, len(self.tokens), self.images)


@dataclass(frozen=True, slots=True)
class ReadingMark:
    """A reading as it was at one moment.

    Attributes:
        later: the reading, which may have gone on since.
        length: tokens at that moment.
        images: pictures among them.
    """

    later: Reading
    length: int
    images: int

    @property
    def tokens(self) -> array[int]:
        """Token ids."""
        return self.later.tokens[: self.length]

    @property
    def kinds(self) -> bytearray:
        """Their kinds."""
        return self.later.kinds[: self.length]

    def restored(self) -> Reading:
        """The reading as it was, to be gone on with."""
        return Reading(self.tokens, self.kinds, self.images)
