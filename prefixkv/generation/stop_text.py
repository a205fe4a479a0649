"""Texts that end an answer: it ends before them, and they are no part of it. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from prefixkv.generation.detokenization import Detokenizer
from prefixkv.generation.sampling import Sampling


def stop_texts(sampling: Sampling, generation_config: Any) -> tuple[str, ...]:
    """The texts that end an answer: the user's own, and those of the model's settings.

    Args:
        sampling: of the answer.
        generation_config: of a model of transformers.
    """
    named = getattr(generation_config, "stop_strings", None) or ()
    return tuple(dict.fromkeys([*sampling.stop, *([named] if isinstance(named, str) else named)]))


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The part of a text that comes before the first of these texts; the whole where there is none."""
    return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of a text that one of these texts may begin with."""
    longest = max((len(stop) for stop in stops), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class StopWatch:
    """Watches the tokens of one answer for a text that ends it."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], left_out: Collection[int] | None = None) -> None:
        """Begin an empty answer.

        Args:
            tokenizer: of transformers.
            stops: texts, at least one.
            left_out: ids that leave no text; all special tokens where None.
        """
        self._detokenizer, self._stops, self._end = Detokenizer(tokenizer, left_out), stops, ""

    def push(self, token: int) -> bool:
        """Add a token; whether the answer has come to a stop."""
        text = self._end + self._detokenizer.push(token)
        # Of what was looked through, only what a stop may have begun with is looked through again.
        self._end = text[len(text) - held_back(text, self._stops) :]
        return any(stop in text for stop in self._stops)


def stop_watch(tokenizer: Any, stops: Sequence[str], left_out: Collection[int] | None = None) -> StopWatch | None:
    """A watch for these texts; None where there are none. Arguments as of `StopWatch`."""
    return StopWatch(tokenizer, stops, left_out) if stops else None
