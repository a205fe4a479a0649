"""Confidence intervals by resampling the samples. Knows nothing of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES, SEED = 1000, 20412
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval of 95 %.

    Attributes:
        value: of all samples.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The fields as plain values, for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Percentile bootstrap (Efron 1979) over the samples, every figure on the same resamples.

    So two cells are compared in pairs: the difference is taken within each resample. Seeded: the same figures every
    time. No figure is summed by a library that spreads sums over threads.
    """

    def __init__(self, samples: int) -> None:
        """Draw the resamples.

        Args:
            samples: how many there are, 1 or more.
        """
        self._drawn = np.random.Generator(np.random.PCG64(SEED)).integers(0, samples, (RESAMPLES, samples))

    def ratio(
        self, parts: Sequence[float], wholes: Sequence[float], finish: Callable[[float], float] = float
    ) -> tuple[float, np.ndarray] | None:
        """A ratio of sums over the samples, such as a token-weighted mean.

        Args:
            parts: one a sample.
            wholes: one a sample, 0 or more.
            finish: applied to each ratio, such as `math.exp`.

        Returns:
            The figure and that of every resample, float64; None where the wholes add up to nothing.
        """
        total = math.fsum(wholes)
        if total == 0:
            return None
        sums = [np.asarray(column, dtype=np.float64)[self._drawn].sum(axis=1) for column in (parts, wholes)]
        value = math.fsum(parts) / total
        # A resample without any weight says nothing: it counts as the whole set.
        drawn = np.where(sums[1] > 0, sums[0] / np.where(sums[1] > 0, sums[1], 1.0), value)
        return finish(value), np.array([finish(float(one)) for one in drawn])


def estimate(value: float, drawn: np.ndarray) -> Estimate:
    """The interval of a figure from its resamples."""
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))
