"""Requests from many threads on one model, by every way to an answer, as `python -m tests.fuzz.overlap` asks them."""

from __future__ import annotations

import pytest

from tests.fuzz.overlap import overlapping
from tests.small_demo import small_demo


@pytest.mark.exhaustive
def test_each_request_is_answered_as_alone() -> None:
    found = overlapping(small_demo(), requests=64, threads=32, seed=7)
    assert found["differing"] == []
    assert found["changed"] == []
    assert found["ended_early"] > 0
