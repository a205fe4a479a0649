"""One answer: its text as it grows token by token, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from prefixkv.generation.detokenization import Detokenizer

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True)
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
        """Speed after the first token; None where there was only one."""
        return (self.new_tokens - 1) / self.decode_seconds if self.new_tokens > 1 and self.decode_seconds > 0 else None


class AnswerWriter:
    """Turns the model's tokens into pieces of text, and measures them; its clock starts when it is made.

    Attributes:
        text: what was written so far.
        tokens: tokens so far, the end token included.
        last_token: the newest; the cache has not read it yet.
    """

    def __init__(self, tokenizer: Any, stop_tokens: Collection[int]) -> None:
        """Begin an empty answer.

        Args:
            tokenizer: of transformers.
            stop_tokens: ids that end an answer.
        """
        self.text, self.tokens, self.last_token = "", 0, -1
        self._detokenizer, self._stop_tokens = Detokenizer(tokenizer), stop_tokens
        self._started_at = self._first_token_at = time.perf_counter()
        self._reason: FinishReason = "interrupted"

    def push(self, token: int) -> str:
        """Add a token.

        Returns:
            The piece of text that is certain now; may be empty. The first piece has no white space before it.
        """
        if self.tokens == 0:
            self._first_token_at = time.perf_counter()
        self.tokens += 1
        self.last_token = token
        piece = self._detokenizer.push(token)
        piece = piece if self.text else piece.lstrip()
        self.text += piece
        return piece

    def end(self) -> None:
        """Note that no more tokens come, rather than that nobody has asked for more."""
        self._reason = "stop" if self.last_token in self._stop_tokens else "length"

    def answer(self, prompt_tokens: int) -> Answer:
        """The answer as it is now.

        Args:
            prompt_tokens: tokens that it was given.
        """
        prefill_seconds = self._first_token_at - self._started_at
        decode_seconds = time.perf_counter() - self._first_token_at
        return Answer(self.text.strip(), prompt_tokens, self.tokens, prefill_seconds, decode_seconds, self._reason)
