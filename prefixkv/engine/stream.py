"""A request's answer while it grows: whoever has asked reads it here, in any thread. Knows nothing of torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from prefixkv.cache.usage import CacheUsage

if TYPE_CHECKING:
    from prefixkv.generation.logprobs import Logprobs

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


class Stream:
    """The tokens of one answer; iterating waits for the next one, and ends where the answer ends.

    Attributes:
        number: of the request.
        prompt_tokens: tokens of its prompt.
        finish_reason: the model ended the answer, the length limit, `cancel` or the deadline did; None until then, and
            where an error did.
        usage: what its cache held at the end; None until then, and where nothing was read.
        submitted_at: when it was asked, by `time.perf_counter`.
        times: when each token was there, by the same clock.
        logprobs: of each token, where they were asked for; else empty.
        cached_tokens: of the prompt, that an earlier prompt had read already.
    """

    def __init__(
        self,
        number: int,
        prompt_tokens: int,
        owner: Any = None,
        on_end: Callable[[Stream], None] = lambda stream: None,
        on_token: Callable[[Stream], None] = lambda stream: None,
    ) -> None:
        """Begin an empty answer.

        Args:
            number: of the request.
            prompt_tokens: of its prompt.
            owner: kept alive as long as the stream, so that nobody else has to.
            on_end: called with the stream when its answer has ended, in a thread of the engine's.
            on_token: called with the stream when tokens have come, likewise.
        """
        self._owner, self._on_end, self._on_token = owner, on_end, on_token
        self.number, self.prompt_tokens = number, prompt_tokens
        self.finish_reason: FinishReason | None = None
        self.usage: CacheUsage | None = None
        self.submitted_at = time.perf_counter()
        self.times: list[float] = []
        self.logprobs: list[Logprobs] = []
        self.cached_tokens = 0
        self.is_cancelled = False
        self._changed = threading.Condition()
        self._tokens: list[int] = []
        self._given = 0
        self._error: Exception | None = None
        self._is_done = False

    def __iter__(self) -> Stream:
        """Return itself."""
        return self

    def __next__(self) -> int:
        """The next token; waits for it.

        Raises:
            StopIteration: the answer has ended; see `finish_reason`.
            PrefixKVError: it has ended in an error.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._given < len(self._tokens) or self._is_done)
            if self._given < len(self._tokens):
                self._given += 1
                return self._tokens[self._given - 1]
            if self._error is not None:
                raise self._error
            raise StopIteration

    def result(self, timeout: float | None = None) -> list[int]:
        """All tokens, the end token included; waits until the answer has ended.

        Args:
            timeout: seconds to wait at most.

        Raises:
            TimeoutError: it has not ended by then.
            PrefixKVError: it has ended in an error.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_done, timeout):
                raise TimeoutError(f"request {self.number} has not ended within {timeout} s")
            if self._error is not None:
                raise self._error
            return list(self._tokens)

    @property
    def tokens(self) -> list[int]:
        """The tokens so far; does not wait."""
        with self._changed:
            return list(self._tokens)

    def tokens_from(self, place: int) -> list[int]:
        """The tokens so far, from a place on; does not wait."""
        with self._changed:
            return self._tokens[place:]

    @property
    def is_done(self) -> bool:
        """Whether the answer has ended."""
        return self._is_done

    @property
    def error(self) -> Exception | None:
        """What has ended the answer; None where nothing did."""
        return self._error

    def cancel(self) -> None:
        """End the answer with the tokens that are there; its memory is free before the next step. Harmless later."""
        self.is_cancelled = True

    def push(self, token: int, logprobs: Logprobs | None = None) -> None:
        """Add a token; called by the engine."""
        with self._changed:
            self.times.append(time.perf_counter())
            if logprobs is not None:
                self.logprobs.append(logprobs)
            self._tokens.append(token)
            self._changed.notify_all()

    def tell(self) -> None:
        """Call who wants to know that tokens have come; called by the engine."""
        self._on_token(self)

    def end(self, reason: FinishReason, usage: CacheUsage | None) -> None:
        """Note that no more tokens come; called by the engine."""
        with self._changed:
            self.finish_reason, self.usage, self._is_done = reason, usage, True
            self._changed.notify_all()
        self._on_end(self)

    def fail(self, error: Exception) -> None:
        """Note that the answer cannot be had; called by the engine."""
        with self._changed:
            self._error, self._is_done = error, True
            self._changed.notify_all()
        self._on_end(self)
