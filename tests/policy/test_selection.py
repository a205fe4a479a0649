"""Selection keeps the protected entries and the most important others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefixkv.policy.selection import cumulative_importance, select


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_equals_sorting_by_hand(scores: list[int], kept_len: int, sinks: int, recent: int) -> None:
    kept_len = min(kept_len, len(scores))
    recent, sinks = min(recent, kept_len), min(sinks, kept_len - min(recent, kept_len))
    protected = set(range(sinks)) | set(range(len(scores) - recent, len(scores)))
    others = sorted(set(range(len(scores))) - protected, key=lambda entry: (-scores[entry], entry))
    expected = sorted([*protected, *others[: kept_len - len(protected)]])
    chosen = select(torch.tensor(scores, dtype=torch.float32)[None, None], kept_len, sinks, recent)
    assert chosen.tolist() == [[expected]]


def test_heads_choose_for_themselves() -> None:
    importance = torch.tensor([[[5.0, 1, 3, 2], [1, 5, 3, 2]]])
    assert select(importance, 2, 0, 1).tolist() == [[[0, 3], [1, 3]]]


def test_choice_is_nested() -> None:
    importance = torch.rand(1, 1, 100).round(decimals=1)
    large = select(importance, 60, 1, 1)
    small = large[0, 0, select(importance[..., large[0, 0]], 20, 1, 1)[0, 0]]
    assert small.tolist() == select(importance, 20, 1, 1)[0, 0].tolist()


def test_cumulative_importance_is_sorted_and_normalised() -> None:
    assert cumulative_importance(torch.tensor([[[1.0, 3.0, 0.0]]])).tolist() == [0.75, 1.0, 1.0]
    assert cumulative_importance(torch.zeros(1, 2, 4)).tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert cumulative_importance(torch.tensor([[[1.0, float("nan")]]])).isnan().any()
