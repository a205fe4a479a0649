"""Quantiles and speeds of a batch, by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefixkv.batch.speed import Speed, quantiles


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed(values: list[float]) -> None:
    found = quantiles(values)
    assert found is not None
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert found[name] in values
        assert sum(value <= found[name] for value in values) >= share * len(values)
        assert sum(value < found[name] for value in values) < math.ceil(share * len(values))


def test_speeds_of_processes_add_up() -> None:
    first, second = Speed(seconds=2.0), Speed(seconds=4.0)
    first.add(10.0, [10.5, 10.75, 11.5])
    second.add(10.0, [12.0])
    second.add(10.0, [])
    whole = Speed.together([first, second]).as_dict()
    assert (whole["tokens"], whole["tokens_per_second"]) == (4, 1.0)
    assert whole["first_token_seconds"] == {"median": 0.5, "p90": 2.0, "p99": 2.0}
    assert whole["token_seconds"] == {"median": 0.25, "p90": 0.75, "p99": 0.75}


def test_nothing_measured_is_nothing_said() -> None:
    assert Speed().as_dict()["tokens_per_second"] is None
    assert quantiles([]) is None
    assert Speed.together([]).seconds == pytest.approx(0)
