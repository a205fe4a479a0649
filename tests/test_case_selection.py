"""How few cases stand for many."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
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


CASES_OF_ONE_TEST = """
import pytest
@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("shape", [{"rows": 1}, {"rows": 2}, {"rows": 3}])
@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_many(name, shape): pass
@pytest.mark.exhaustive
def test_long(): pass
def test_short(): pass
"""


@pytest.mark.exhaustive
def test_make_test_shows_every_value_and_the_rest_is_all_that_is_left(tmp_path: Path) -> None:
    (tmp_path / "test_cases.py").write_text(CASES_OF_ONE_TEST)
    choices = ((), ("--rest",), ("--rest", "--cases", "2"), ("--all",))
    usual, rest, some, whole = (_collected(tmp_path, *options) for options in choices)
    assert usual == ["test_many[one-shape0]", "test_many[two-shape1]", "test_many[three-shape2]", "test_short"]
    assert len(whole) == 11
    assert sorted(usual + rest) == sorted(whole)
    assert set(some) < set(rest)
    assert [name for name in some if name != "test_long"] == ["test_many[one-shape1]", "test_many[two-shape0]"]


def _collected(folder: Path, *options: str) -> list[str]:
    words = ["-q", "--collect-only", "-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *words,
            "-o",
            "markers=exhaustive: as in pyproject.toml",
            *options,
            str(folder),
        ],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    return re.findall(r"::(\S+)", done.stdout)
