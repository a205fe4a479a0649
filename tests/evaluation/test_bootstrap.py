"""Intervals by resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefixkv.evaluation.bootstrap import Bootstrap, estimate


def test_interval_of_a_share_is_that_of_the_binomial() -> None:
    """400 samples, 80 % right: the normal interval is 0.8 +- 1.96 * sqrt(0.8 * 0.2 / 400)."""
    right = [float(number % 5 != 0) for number in range(400)]
    measured = Bootstrap(400).ratio(right, [1.0] * 400)
    assert measured is not None
    found = estimate(*measured)
    half = 1.96 * math.sqrt(0.16 / 400)
    assert found.value == pytest.approx(0.8)
    assert found.low == pytest.approx(0.8 - half, abs=0.005)
    assert found.high == pytest.approx(0.8 + half, abs=0.005)


def test_means_are_weighted_by_tokens() -> None:
    measured = Bootstrap(2).ratio([10.0, 1.0], [1.0, 9.0], math.exp)
    assert measured is not None
    assert measured[0] == pytest.approx(math.exp(1.1))
    assert set(np.round(measured[1], 6)) <= {round(math.exp(value), 6) for value in (10.0, 1.1, 1 / 9)}


def test_pairs_share_their_resamples() -> None:
    """One cell is better by the same on every sample: the difference has no spread, though each figure has."""
    bootstrap = Bootstrap(50)
    losses = [float(number * number % 17) for number in range(50)]
    one = bootstrap.ratio(losses, [1.0] * 50)
    other = bootstrap.ratio([loss + 0.25 for loss in losses], [1.0] * 50)
    assert one is not None
    assert other is not None
    found = estimate(other[0] - one[0], other[1] - one[1])
    assert found.low == pytest.approx(0.25)
    assert found.high == pytest.approx(0.25)
    assert estimate(*one).high - estimate(*one).low > 1


def test_seeded_and_empty_wholes() -> None:
    values = [1.0, 5.0, 2.0]
    first, again = (Bootstrap(3).ratio(values, [1.0, 1.0, 1.0]) for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first[1], again[1])
    assert Bootstrap(3).ratio(values, [0.0] * 3) is None
    sparse = Bootstrap(3).ratio([4.0, 0.0, 0.0], [2.0, 0.0, 0.0])
    assert sparse is not None
    assert set(sparse[1]) == {2.0}
