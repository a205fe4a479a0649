"""Ranking and curve: the plain ones against sorting by hand, the Triton ones against the plain ones."""

from __future__ import annotations

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.ranking import first_ranked, ranking
from tests.kernels.precision import noise

pytestmark = pytest.mark.exhaustive(keep=8)

LENGTHS = [1, 2, 31, 64, 65, 1000, 1025]


def _importance(seen_len: int, ties: bool, device: torch.device) -> torch.Tensor:
    importance = noise(3, seen_len, dtype=torch.float32, device=device, seed=seen_len).abs()
    importance[0, ::2] = 0
    return importance.round() if ties else importance


@pytest.mark.parametrize("protected", [(0, 0), (1, 1), (4, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_protected_entries_rank_first_and_the_others_by_importance(protected: tuple[int, int], ties: bool) -> None:
    sinks, recent = protected
    importance = _importance(65, ties, torch.device("cpu"))
    values, order, ranks = ranking(importance, sinks, recent)
    for row in range(3):
        numbers = importance[row].tolist()
        group = [0 if entry >= 65 - recent else 1 if entry < sinks else 2 for entry in range(65)]
        expected = sorted(range(65), key=lambda entry: (group[entry], -numbers[entry], entry))
        assert order[row].tolist() == expected
        assert [expected[rank] for rank in ranks[row].tolist()] == list(range(65))
        assert values[row].tolist() == sorted(numbers, reverse=True)
        assert first_ranked([ranks[None]], [7])[0][0, row].tolist() == sorted(expected[:7])


@pytest.mark.parametrize("seen_len", LENGTHS)
@pytest.mark.parametrize("protected", [(0, 0), (1, 1), (4, 9), (0, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_triton_ranks_alike(seen_len: int, protected: tuple[int, int], ties: bool, triton_device: torch.device) -> None:
    importance = _importance(seen_len, ties, triton_device)
    found = implementation("ranking", importance, "triton")(importance, *protected)
    expected = implementation("ranking", importance, "torch")(importance, *protected)
    assert all(one.equal(other) and one.dtype == other.dtype for one, other in zip(found, expected, strict=True))
    counts = [1, seen_len // 5 or 1, seen_len]
    ranks = [found[2].view(1, 3, -1)] * 3
    first = implementation("ranking.first_ranked", importance, "triton")(ranks, counts)
    assert all(one.equal(other) for one, other in zip(first, first_ranked(ranks, counts), strict=True))


def test_triton_takes_layers_of_different_lengths_together(triton_device: torch.device) -> None:
    ranks = [
        noise(2, 3, length, dtype=torch.float32, device=triton_device, seed=length).argsort(dim=-1).int()
        for length in (7, 200, 64)
    ]
    first = implementation("ranking.first_ranked", ranks[0], "triton")(ranks, [7, 30, 1])
    assert all(one.equal(other) for one, other in zip(first, first_ranked(ranks, [7, 30, 1]), strict=True))


@pytest.mark.parametrize("seen_len", LENGTHS)
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_triton_curve_is_the_plain_one(rows: int, seen_len: int, triton_device: torch.device) -> None:
    values = noise(2, rows, seen_len, dtype=torch.float32, device=triton_device, seed=rows).abs()
    values[1, rows // 2] *= rows > 1
    values = values.sort(dim=-1, descending=True).values
    found = implementation("curve", values, "triton")(values)
    torch.testing.assert_close(found, implementation("curve", values, "torch")(values), rtol=1e-12, atol=1e-14)
    values[0, 0, 0] = float("nan")
    assert implementation("curve", values, "triton")(values).isnan().all(dim=-1).tolist() == [True, False]


@pytest.mark.gpu
@pytest.mark.parametrize("seen_len", [2944, 16_384, 32_768, 40_000])
def test_long_rows(seen_len: int, triton_device: torch.device) -> None:
    importance = noise(4, seen_len, dtype=torch.float32, device=triton_device, seed=1).abs()
    found = implementation("ranking", importance, "triton")(importance, 1, 1)
    expected = implementation("ranking", importance, "torch")(importance, 1, 1)
    assert all(one.equal(other) for one, other in zip(found, expected, strict=True))
    ranks = [found[2].view(2, 2, -1)]
    (first,) = implementation("ranking.first_ranked", importance, "triton")(ranks, [seen_len // 5])
    assert first.equal(first_ranked(ranks, [seen_len // 5])[0])
