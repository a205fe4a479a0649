"""Which cell of a budget is the best, and which cannot be told from it by paired differences. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prefixkv.evaluation.bootstrap import estimate
from prefixkv.evaluation.figures import LOWER_IS_BETTER

BEST, LEVEL, BEHIND = "best", "level", "behind"


def standings(name: str, measured: Sequence[tuple[float, np.ndarray]]) -> list[str]:
    """How cells at one budget stand in one metric.

    Args:
        name: of the metric.
        measured: each cell's figure, and that of every resample of the same samples.

    Returns:
        For each cell `best`; `level`, where the interval of 95 % of its difference from the best one holds 0, the
        difference being taken within each resample; or `behind`.
    """
    sign = 1.0 if name in LOWER_IS_BETTER else -1.0
    best, drawn = min(measured, key=lambda one: sign * one[0])
    found = []
    for value, own in measured:
        behind = estimate(value - best, own - drawn)
        is_level = behind.low <= 0 <= behind.high
        found.append(BEST if value == best else LEVEL if is_level else BEHIND)
    return found
