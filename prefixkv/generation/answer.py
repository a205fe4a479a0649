"""One answer: its text as it grows token by token, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefixkv.generation.detokenization import Detokenizer
from prefixkv.generation.stop_text import before_stop, held_back

FinishReason = Literal["stop", "length", "interrupted"]

RATE_TOKENS = 10
"""Of fewer tokens a speed says more of the clock than of the model."""


def rate(tokens: int, seconds: float) -> float | None:
    """Tokens per second after the first one.

    Args:
        tokens: of the answer so far, the first included.
        seconds: since the first one was there.

    Returns:
        None below `RATE_TOKENS` tokens.
    """
    return (tokens - 1) / seconds if tokens >= RATE_TOKENS and seconds > 0 else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and what it cost.

    Attributes:
        text: without the white space around it.
        prompt_tokens: tokens that it was given, earlier turns and images included.
        new_tokens: tokens generated, the end token included.
        prefill_seconds: until the first token, image processing included.
        decode_seconds: for the tokens after the first.
        finish_reason: the model ended it, the length limit did, or whoever read it stopped reading.
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float
    decode_seconds: float
    finish_reason: FinishReason

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None for an answer of fewer than `RATE_TOKENS`."""
        return rate(self.new_tokens, self.decode_seconds)


class AnswerWriter:
    """Turns the model's tokens into pieces of text, and measures them; its clock starts when it is made.

    Attributes:
        text: what was written so far.
        tokens: tokens so far, the end token included.
        last_token: the newest; the cache has not read it yet.
        has_stopped: whether a text that ends the answer was said; it is no part of `text`.
    """

    def __init__(
        self,
        tokenizer: Any,
        stop_tokens: Collection[int],
        stop_texts: Sequence[str] = (),
        left_out: Collection[int] | None = None,
    ) -> None:
        """Begin an empty answer.

        Args:
            tokenizer: of transformers.
            stop_tokens: ids that end an answer.
            stop_texts: texts that end it; what may be the beginning of one waits until it is known not to be.
            left_out: ids that leave no text; all special tokens where None.
        """
        self.has_stopped, self._stop_texts, self._waiting, self._space = False, stop_texts, "", ""
        self.text, self.tokens, self.last_token = "", 0, -1
        self._detokenizer, self._stop_tokens = Detokenizer(tokenizer, left_out), stop_tokens
        self._started_at = self._first_token_at = time.perf_counter()
        self._reason: FinishReason = "interrupted"

    def push(self, token: int) -> str:
        """Add a token.

        Returns:
            The piece of text that is certain now; may be empty. The first piece has no white space before it, and white
            space waits for what comes behind it, so that all pieces together are `Answer.text`.
        """
        if self.tokens == 0:
            self._first_token_at = time.perf_counter()
        self.tokens += 1
        self.last_token = token
        piece = self._detokenizer.push(token)
        if self._stop_texts:
            piece = self._without_stop(self._waiting + piece)
        return self._add(piece)

    def end(self) -> str:
        """Note that no more tokens come, rather than that nobody has asked for more.

        Returns:
            The piece of text that has waited.
        """
        self._reason = "stop" if self.has_stopped or self.last_token in self._stop_tokens else "length"
        rest, self._waiting = self._waiting, ""
        if not self.has_stopped:
            rest = before_stop(rest + self._detokenizer.end(), self._stop_texts)
        return self._add(rest)

    def _without_stop(self, text: str) -> str:
        """The part of a text that is certain to be the answer's; what may be a stop's beginning waits."""
        before = before_stop(text, self._stop_texts)
        self.has_stopped = len(before) < len(text)
        waits = 0 if self.has_stopped else held_back(before, self._stop_texts)
        certain = before[: len(before) - waits]
        self._waiting = before[len(certain) :]
        return certain

    def _add(self, piece: str) -> str:
        spaced = self._space + piece
        written = spaced.rstrip()
        self._space = spaced[len(written) :] if written or self.text else ""
        written = written if self.text else written.lstrip()
        self.text += written
        return written

    def answer(self, prompt_tokens: int) -> Answer:
        """The answer as it is now.

        Args:
            prompt_tokens: tokens that it was given.
        """
        prefill_seconds = self._first_token_at - self._started_at
        decode_seconds = time.perf_counter() - self._first_token_at
        return Answer(self.text, prompt_tokens, self.tokens, prefill_seconds, decode_seconds, self._reason)
