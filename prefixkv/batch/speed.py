"""How fast the lines of a batch were answered. Pure numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass
class ProcessSeconds:
    """What one of several processes took.

    Attributes:
        startup_seconds: from its start until it could answer: imports, and the model.
        seconds: that it answered.
        tokens: of its answers.
    """

    startup_seconds: float = 0.0
    seconds: float = 0.0
    tokens: int = 0


@dataclass
class Speed:
    """What was measured, of one process or of several.

    Attributes:
        seconds: from the first line to the last, of the process that took longest.
        tokens: of all answers, the end tokens included.
        first_token_seconds: for every answer, from when it was asked to its first token; waiting is part of it.
        token_seconds: for every further token, since the one before it.
        prefixes: that several lines began with, each read once.
        lines_sharing: lines that began with one.
        prefix_bytes: most that they took at a time, in one process.
        processes: what each of them took.
    """

    seconds: float = 0.0
    tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    token_seconds: list[float] = field(default_factory=list)
    prefixes: int = 0
    lines_sharing: int = 0
    prefix_bytes: int = 0
    processes: list[ProcessSeconds] = field(default_factory=list)

    def add(self, asked_at: float, token_times: Sequence[float]) -> None:
        """Count an answer.

        Args:
            asked_at: when it was asked.
            token_times: when each token came, by the same clock.
        """
        self.tokens += len(token_times)
        self.first_token_seconds += [token_times[0] - asked_at] if token_times else []
        self.token_seconds += [after - before for before, after in pairwise(token_times)]

    @classmethod
    def together(cls, parts: Iterable[Speed]) -> Speed:
        """What processes have measured that worked at the same time."""
        whole = cls()
        for part in parts:
            whole.seconds = max(whole.seconds, part.seconds)
            whole.tokens += part.tokens
            whole.first_token_seconds += part.first_token_seconds
            whole.token_seconds += part.token_seconds
            whole.prefixes += part.prefixes
            whole.lines_sharing += part.lines_sharing
            whole.prefix_bytes = max(whole.prefix_bytes, part.prefix_bytes)
            whole.processes += part.processes
        return whole

    def as_dict(self) -> dict[str, Any]:
        """For JSON; None where nothing was measured."""
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.tokens and self.seconds else None,
            "first_token_seconds": quantiles(self.first_token_seconds),
            "token_seconds": quantiles(self.token_seconds),
            "prefixes": {"read": self.prefixes, "lines": self.lines_sharing, "most_bytes": self.prefix_bytes},
            "startup_seconds": max((each.startup_seconds for each in self.processes), default=None),
            "processes": [asdict(each) for each in self.processes],
        }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 90 and 99 %: the smallest value that so many are no greater than; None where there are none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in QUANTILES.items()}
