"""Everything that makes a conversation what it is at one moment: for going back, and for saving it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from prefixkv.answer import Answer
from prefixkv.prompts import Turn
from prefixkv.reading import Reading
from prefixkv.snapshot import CacheSnapshot


@dataclass(frozen=True)
class ConversationState:
    """A conversation between two answers.

    Attributes:
        system: instructions before the first turn; empty for none.
        turns: what was asked, with the answers.
        answers: what each answer cost, in the same order.
        waiting: pictures that belong to the next question.
        reading: what the cache has read.
        cache: what it holds.
    """

    system: str
    turns: tuple[Turn, ...]
    answers: tuple[Answer, ...]
    waiting: tuple[Image.Image, ...]
    reading: Reading
    cache: CacheSnapshot
