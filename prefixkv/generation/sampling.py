"""How the next token is chosen, as the user asks for it. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from prefixkv.errors import OptionError

MOST_LOGPROBS = 20
"""Likeliest tokens that are told of each place of an answer."""


@dataclass(frozen=True)
class Sampling:
    """Options of one answer.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the most likely token; higher values draw more freely.
        top_p: draw from the smallest set of tokens whose probabilities reach this sum.
        seed: makes drawing repeatable, whatever else is answered at the same time; None draws afresh.
        top_k: draw from so many of the most likely tokens; 0 draws from all.
        stop: texts that end the answer, which ends before them.
        logprobs: likeliest tokens that are told with each token and its probability; None tells neither.

    Raises:
        OptionError: when a value is not allowed.
    """

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.max_new_tokens < 1:
            raise OptionError(f"max-new-tokens {self.max_new_tokens} is too small: give 1 or more")
        if not 0 <= self.temperature <= 100:
            raise OptionError(f"temperature {self.temperature} is outside 0 .. 100: 0 takes the most likely token")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top-p {self.top_p} is outside (0, 1]: 1 draws from all tokens")
        if self.top_k < 0:
            raise OptionError(f"top-k {self.top_k} is below 0: 0 draws from all tokens")
        if "" in self.stop:
            raise OptionError("stop is an empty text: give one that ends an answer, or leave it out")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise OptionError(f"logprobs {self.logprobs} is outside 0 .. {MOST_LOGPROBS}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise OptionError(f"seed {self.seed} is outside 0 .. 2^63 - 1")

    def within(self, room: int | None, notify: Callable[[str], None]) -> Sampling:
        """The same, its answer no longer than the model's positions allow.

        Args:
            room: tokens that are left for the answer; None where there is no limit.
            notify: told where that is less than was asked for.
        """
        if room is None or room >= self.max_new_tokens:
            return self
        notify(f"the answer has room for {room:,} tokens: then the model's positions are used up")
        return replace(self, max_new_tokens=room)
