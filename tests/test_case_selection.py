"""How few cases stand for many."""

from __future__ import annotations

from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.case_selection import spread

CASES: list[dict[str, Any]] = [{"a": a, "b": b} for a, b in product(range(4), range(3))]


def test_few_cases_show_every_value() -> None:
    chosen = [CASES[index] for index in spread(CASES, 4)]
    assert {case["a"] for case in chosen} == {0, 1, 2, 3}
    assert {case["b"] for case in chosen} == {0, 1, 2}


@given(keep=st.integers(0, 20), cases=st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)), max_size=12))
def test_as_many_as_are_kept_in_order_and_the_same_every_time(keep: int, cases: list[dict[str, int]]) -> None:
    chosen = spread(cases, keep)
    assert len(chosen) == min(keep, len(cases))
    assert chosen == sorted(set(chosen)) == spread(cases, keep)
