"""Facts hidden in a long text at every depth, asked for only after the text was compressed. No torch in here.

Perplexity hides what is lost: one sentence that is gone changes little in the mean, and everything for who asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from prefixkv.evaluation.data import Question

DEPTHS = 20
"""Places of the asked fact, from the beginning of the text to its end."""
SEVERAL = 4
"""Facts in every second text, of which one is asked for."""
_STREAM = 7005

_WHO = (
    "The farmer",
    "A young painter",
    "The old sailor",
    "My neighbour",
    "The engineer",
    "A quiet teacher",
    "The baker",
)
_DID = ("walked to", "wrote a letter about", "remembered", "measured", "described", "cleaned", "photographed", "left")
_WHAT = (
    "the river",
    "a wooden bridge",
    "the empty market",
    "two small boats",
    "the long road",
    "a green valley",
    "the mill",
)
_WHEN = ("in the morning", "before the rain", "late in autumn", "on a warm evening", "without a word", "once more")
_TOWNS = ("Lisbon", "Oslo", "Cairo", "Lima", "Quito", "Dublin", "Prague", "Hanoi", "Athens", "Bergen", "Tunis", "Riga")


def needle_questions(count: int, tokens: int, seed: int, count_tokens: Callable[[str], int]) -> list[Question]:
    """Texts with one or several facts, and a question for one of them.

    The text is the first turn of a conversation, the question the second. Its kind is the depth of the fact. Texts with
    one fact and with several take turns; all depths come before one comes again.

    Args:
        count: how many.
        tokens: that a text has, as nearly as whole sentences allow.
        seed: different seeds give different texts.
        count_tokens: tells how many tokens a text has.
    """
    return [_question(index, tokens, seed, count_tokens) for index in range(count)]


def _question(index: int, tokens: int, seed: int, count_tokens: Callable[[str], int]) -> Question:
    random = np.random.default_rng([_STREAM, seed, index])
    towns = [str(town) for town in random.permutation(_TOWNS)]
    depth = index % DEPTHS
    facts = [_fact(town, random) for town in towns[: SEVERAL if index % 2 else 1]]
    others = [float(place) for place in random.random(len(facts) - 1)]
    places = dict(zip(facts, [depth / (DEPTHS - 1), *others], strict=True))
    sentences = _sentences(random, tokens - sum(map(count_tokens, facts)), count_tokens)
    for fact, place in sorted(places.items(), key=lambda pair: -pair[1]):
        sentences.insert(round(place * len(sentences)), fact)
    text = "Read this text.\n\n" + " ".join(sentences)
    asked = f"Repeat the sentence about the code of {towns[0]}, word for word."
    return Question(asked, facts[0], f"depth {depth / (DEPTHS - 1):.0%}", ((text, "I have read it."),))


def _fact(town: str, random: np.random.Generator) -> str:
    return f"The code of {town} is {random.integers(10_000, 99_999)}."


def _sentences(random: np.random.Generator, tokens: int, count_tokens: Callable[[str], int]) -> list[str]:
    """So many sentences that they have no more than `tokens` tokens."""

    def drawn() -> str:
        return " ".join(str(random.choice(part)) for part in (_WHO, _DID, _WHAT, _WHEN)) + "."

    sentences = [drawn() for _ in range(max(1, tokens // 4))]
    low, high = 1, len(sentences)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(" ".join(sentences[:middle])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return sentences[:low]
