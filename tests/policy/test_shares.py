"""Shares of the first layers bound what they keep in the end."""

from __future__ import annotations

import pytest
import torch

from prefixkv.methods.table import get_method
from prefixkv.policy.shares import LayerShares

LAYERS, ENTRIES = 6, 40


@pytest.mark.parametrize("method", ["prefixkv", "guided"])
@pytest.mark.parametrize("seed", range(30))
def test_shares_only_fall_with_further_layers(method: str, seed: int) -> None:
    """So a layer may be cut to its share among the first ones at any time; halves that are rounded up included."""
    torch.manual_seed(seed)
    shares = LayerShares(get_method(method), LAYERS, None)
    for layer in range(LAYERS):
        importance = torch.rand(ENTRIES, dtype=torch.float64).pow(1 + 40 * (layer % 2)).sort(descending=True).values
        shares.add_curves((importance / importance.sum()).cumsum(0)[None])
    total = 57 + seed
    bounds = [
        shares.counts(total, ENTRIES, [ENTRIES] * read, [0] * (LAYERS - read), ENTRIES) for read in range(1, LAYERS + 1)
    ]
    final = bounds[-1]
    assert sum(final) == total
    for bound in bounds:
        assert all(count >= kept for count, kept in zip(bound, final, strict=False))


def test_curves_are_taken_over_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = LayerShares(get_method("prefixkv"), LAYERS, None)
    shares.add_curves(torch.linspace(0.1, 1, 10, dtype=torch.float64).expand(3, -1))
    for curve, there in zip(shares._curves, (True, False, True), strict=True):
        monkeypatch.setattr(type(curve), "is_there", property(lambda each: each.__dict__["there"]), raising=True)
        curve.__dict__["there"] = there
    assert shares.fetch() == 1
    shares._curves[1].__dict__["there"] = True
    assert shares.fetch() == 3
