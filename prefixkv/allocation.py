"""Allocation: how many entries each layer keeps. Pure functions on numbers; exact, and they always end.

Every allocator gives whole numbers that add up to the total (or to all there is, if that is less), each between the
layer's floor and the entries it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

BISECTIONS = 48
"""Halvings of the threshold's interval; what is still undecided then is ordered one by one, so none is missed."""


def uniform(total: int, layers: int) -> list[int]:
    """The same number of entries in every layer; the first `total % layers` layers keep one more.

    Args:
        total: entries that all layers together keep.
        layers: number of layers.

    Returns:
        Entries for each layer; their sum is `total`.
    """
    share, extra = divmod(total, layers)
    return [share + (layer < extra) for layer in range(layers)]


def prefix(concentrations: Sequence[torch.Tensor], total: int, floor: int) -> list[int]:
    """The paper's allocation: ONE threshold on cumulative importance for all layers (PrefixKV, section 3.3).

    A layer keeps the shortest prefix of its ranked entries whose cumulative importance reaches the threshold `p`. So the
    entry of rank `o` is kept exactly when the importance before it is below `p`, and finding `p` for a total means
    taking the `total` smallest of these "importance before" numbers over all layers. The binary search narrows `p`;
    entries that no threshold can tell apart (equal numbers) are taken by rank, then by layer.

    Deviation: the paper scales the configuration when the sizes miss the budget; here they add up exactly.

    Args:
        concentrations: for each layer (entries,), descending shares that sum to 1 over all entries the layer has read;
            may be cut off at the entries that the layer still stores.
        total: entries that all layers together may keep.
        floor: entries that every layer keeps whatever its importance (all it has, where that is fewer).

    Returns:
        Entries for each layer; their sum is `min(total, all entries)`.

    Raises:
        ValueError: when the floors alone exceed the total, or an importance is not a number.
    """
    befores = [_importance_before(shares, floor) for shares in concentrations]
    total = min(total, sum(len(before) for before in befores))
    if sum(min(floor, len(before)) for before in befores) > total:
        raise ValueError(f"{total} entries cannot hold {floor} in each of {len(befores)} layers")
    low, high = -2.0, 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if sum(_below(before, middle) for before in befores) <= total:
            low = middle
        else:
            high = middle
    kept = [_below(before, low) for before in befores]
    undecided = sorted(
        (before, rank, layer)
        for layer, numbers in enumerate(befores)
        for rank, before in enumerate(numbers[kept[layer] : _below(numbers, high)].tolist(), start=kept[layer])
    )
    for _, _, layer in undecided[: total - sum(kept)]:
        kept[layer] += 1
    return kept


def _importance_before(shares: torch.Tensor, floor: int) -> torch.Tensor:
    """The cumulative importance before each rank, (entries,) float64 ascending; -1 for the entries of the floor."""
    before = shares.double().cpu().cumsum(0).roll(1)
    before[:1] = 0.0
    before[:floor] = -1.0
    if before.isnan().any() or shares.isnan().any():
        raise ValueError("the importance of a layer is not a number")
    return before


def _below(before: torch.Tensor, threshold: float) -> int:
    """How many of the ascending numbers are below the threshold."""
    return int(torch.searchsorted(before, threshold))
