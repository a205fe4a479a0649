"""Which entries come first where a layer holds only a few."""

from __future__ import annotations

import pytest
import torch

from prefixkv.methods.method import FEW
from prefixkv.methods.precedence import with_means, with_newest
from prefixkv.policy.ranking import rank


def _order(importance: torch.Tensor) -> list[int]:
    return rank(importance, 0, 0).order[0, 0].tolist()


def test_two_of_the_first_by_the_mean_come_before_each_of_the_first_by_the_peak() -> None:
    peak = torch.tensor([[[0.9, 0.8, 0.7, 0.1, 0.2, 0.3]]])
    mean = torch.tensor([[[0.1, 0.3, 0.05, 0.5, 0.2, 0.01]]])
    # By the mean 3, 1, 4, 0, 2, 5, and by the peak 0, 1, 2, ...
    assert _order(with_means(peak, mean)) == [3, 1, 0, 4, 2, 5]


def test_only_the_first_few_by_the_mean_are_raised() -> None:
    torch.manual_seed(0)
    peak, mean = torch.rand(1, 2, 200), torch.rand(1, 2, 200)
    importance = with_means(peak, mean)
    raised = importance != peak
    assert raised.sum(dim=-1).max() <= FEW
    assert (importance >= peak).all()
    few = mean.argsort(dim=-1, descending=True)[..., :FEW]
    assert not raised.scatter(-1, few, False).any()
    assert (importance.gather(-1, few) > peak.topk(FEW // 2).values[..., -1:]).all()


@pytest.mark.parametrize("newest", [1, 5, 16])
def test_the_newest_have_every_second_rank(newest: int) -> None:
    torch.manual_seed(1)
    importance = torch.rand(1, 1, 50)
    placed = with_newest(importance, newest)
    order = _order(placed)
    assert order[: 2 * newest : 2] == list(range(49, 49 - newest, -1))
    others = [entry for entry in order if entry < 50 - newest]
    assert others == _order(importance[..., : 50 - newest])
    torch.testing.assert_close(placed[..., : 50 - newest], importance[..., : 50 - newest], atol=0, rtol=0)


def test_the_newest_are_placed_between_entries_that_are_raised() -> None:
    torch.manual_seed(2)
    peak, mean = torch.rand(1, 1, 60), torch.rand(1, 1, 60)
    order = _order(with_newest(with_means(peak, mean), FEW))
    assert order[: 2 * FEW : 2] == list(range(59, 59 - FEW, -1))


def test_of_few_entries_half_at_most_are_the_newest() -> None:
    assert _order(with_newest(torch.tensor([[[0.3, 0.5, 0.1]]]), 16)) == [2, 1, 0]
    assert _order(with_newest(torch.tensor([[[0.3]]]), 16)) == [0]
