"""Which cell is the best, and which cannot be told from it."""

from __future__ import annotations

import numpy as np

from prefixkv.evaluation.bootstrap import Bootstrap
from prefixkv.evaluation.standing import standings


def test_cells_are_compared_in_pairs() -> None:
    """Samples differ by far more than the cells do: only the paired difference tells a cell that is always worse."""
    rng = np.random.default_rng(5)
    hard = rng.normal(0, 10, 60)
    noise = rng.normal(0, 1, 60)
    always_worse, as_often_better = hard - 0.5 + 0.1 * noise, hard - 0.01 + noise - noise.mean()
    bootstrap, ones = Bootstrap(60), [1.0] * 60
    drawn = [bootstrap.ratio(list(scores), ones) for scores in (always_worse, hard, as_often_better, hard)]
    measured = [one for one in drawn if one is not None]
    assert standings("accuracy", measured) == ["behind", "best", "level", "best"]
    lowest = [(-value, -own) for value, own in measured]
    assert standings("perplexity", lowest) == ["behind", "best", "level", "best"]
    assert standings("accuracy", lowest)[0] == "best"
