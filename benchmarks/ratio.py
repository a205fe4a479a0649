"""Two ways of doing something, timed in turns within one run: their ratio says more than seconds of any machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """How long one thing takes, over how long another does.

    Attributes:
        name: of what is compared.
        one: what is measured.
        other: what it is measured against.
        one_seconds: median of one thing's times.
        other_seconds: median of the other's.
        repeats: how often each was timed.
    """

    name: str
    one: str
    other: str
    one_seconds: float
    other_seconds: float
    repeats: int

    @property
    def ratio(self) -> float:
        """The first over the second."""
        return self.one_seconds / self.other_seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        """One line for a reader."""
        times = f"{self.one} {self.one_seconds * 1e3:,.1f} ms, {self.other} {self.other_seconds * 1e3:,.1f} ms"
        return f"{self.ratio:8.3f}  {self.name}: {times}"


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(
    name: str, one: tuple[str, Callable[[], object]], other: tuple[str, Callable[[], object]], repeats: int
) -> Ratio:
    """Time both in turns, after one run of each that is not counted.

    Args:
        name: of what is compared.
        one: what is measured, its name first.
        other: what it is measured against.
        repeats: how often each is timed.
    """
    works = (one[1], other[1])
    seconds = [[timed(work) for work in works] for _ in range(repeats + 1)][1:]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return Ratio(name, one[0], other[0], *medians, repeats)
