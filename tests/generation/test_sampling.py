"""Sampling options: what is allowed at the edges, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from prefixkv.errors import OptionError
from prefixkv.generation.sampling import Sampling


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"max_new_tokens": 1},
        {"temperature": 0},
        {"temperature": 100},
        {"top_p": 1},
        {"top_p": 1e-6},
        {"seed": 0},
        {"seed": 2**63 - 1},
    ],
)
def test_sampling_accepts_the_edges(values: dict[str, Any]) -> None:
    Sampling(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": 101},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_sampling_refuses_what_is_outside_and_says_what_was_given(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(values.values()))).replace(".", r"\.")):
        Sampling(**values)
