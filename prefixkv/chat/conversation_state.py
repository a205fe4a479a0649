"""Everything that makes a conversation what it is at one moment: for going back, and for saving it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.chat.reading import ReadingMark
from prefixkv.generation.answer import Answer
from prefixkv.inputs.prompts import Turn


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
        template_args: values for the model's chat template, by name.
    """

    system: str
    turns: tuple[Turn, ...]
    answers: tuple[Answer, ...]
    waiting: tuple[Image.Image, ...]
    reading: ReadingMark
    cache: CacheSnapshot
    template_args: Mapping[str, Any] = field(default_factory=dict)
