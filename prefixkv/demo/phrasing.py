"""The wordings of every kind of question, and the seeded chooser that picks among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

# A question, its answer, and the earlier (question, answer) pairs that it needs.
Asked = tuple[str, str, tuple[tuple[str, str], ...]]

_WORDINGS: dict[str, tuple[str, ...]] = {
    "count_shape": (
        "How many {noun} are there?",
        "How many {noun} can you see?",
        "How many {noun} are in the image?",
        "Count the {noun}.",
    ),
    "count_colour": (
        "How many {noun} objects are there?",
        "How many objects are {noun}?",
        "How many {noun} things can you see?",
        "Count the {noun} objects.",
    ),
    "count_all": (
        "How many objects are there?",
        "How many objects are there in total?",
        "How many objects are in the image?",
        "Count all the objects.",
    ),
    "colour": (
        "What colour is the {noun}?",
        "What color is the {noun}?",
        "What is the colour of the {noun}?",
        "What is the color of the {noun}?",
        "Which colour does the {noun} have?",
        "Which color is the {noun}?",
    ),
    "shape": (
        "What shape is the {noun}?",
        "What is the shape of the {noun}?",
        "Which shape does the {noun} have?",
    ),
    "place": (
        "Where is the {noun}?",
        "Where can I find the {noun}?",
        "In which row and column is the {noun}?",
        "What is the position of the {noun}?",
    ),
    "cell": (
        "What is in the {noun}?",
        "What is at {noun}?",
        "What can you see in the {noun}?",
        "Which object is in {noun}?",
    ),
    "larger": (
        "Which is larger, the {noun} or the {other}?",
        "Which one is larger, the {noun} or the {other}?",
        "Which is bigger, the {noun} or the {other}?",
        "What is larger: the {noun} or the {other}?",
    ),
    "left": (
        "Which is further left, the {noun} or the {other}?",
        "Which one is further left, the {noun} or the {other}?",
        "Which is more to the left, the {noun} or the {other}?",
        "What is further left: the {noun} or the {other}?",
    ),
    "letters": (
        "Read the letters.",
        "Which letters can you see?",
        "What letters are in the image?",
        "What are the letters?",
    ),
    "letter": (
        "Which letter is on the {noun}?",
        "What letter is on the {noun}?",
        "Read the letter on the {noun}.",
        "What is the letter on the {noun}?",
    ),
    "presence": (
        "Is there {noun}?",
        "Is there {noun} in the image?",
        "Can you see {noun}?",
        "Does the image show {noun}?",
    ),
    "describe": (
        "Describe the image.",
        "Describe this image.",
        "Describe the picture.",
        "Please describe the image.",
        "What do you see?",
    ),
    "next": ("And the one {noun}?", "What about the one {noun}?"),
    "next_what": ("And what is {noun}?", "What is {noun}?"),
    "next_colour": ("And how many {noun} ones?", "And how many are {noun}?", "And how many {noun} objects?"),
    "next_shape": ("And how many {noun}?", "And how many {noun} are there?"),
}


class Chooser:
    """Seeded choices, the same on every machine.

    Args:
        entropy: Non-negative integers that name the stream.
    """

    def __init__(self, entropy: Sequence[int]) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(entropy))))

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit` - 1."""
        return int(self._rng.random() * limit)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self._rng.random() < probability)

    def one(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.below(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """All options in random order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(len(rest))]


def phrase(choose: Chooser, key: str, **words: str) -> str:
    """One of the wordings of a kind of question with its words filled in."""
    return choose.one(_WORDINGS[key]).format(**words)


def all_wordings() -> list[str]:
    """Every wording with its gaps left open, for the tokenizer."""
    return [wording for wordings in _WORDINGS.values() for wording in wordings]
