"""Allocation: how many entries each layer keeps. Pure functions on numbers; exact, they always end.

Every allocator gives whole numbers that add up to the total (or to all there is, if that is less), each between the
layer's floor and the entries it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

BISECTIONS = 48
"""Halvings of the threshold's interval; what is then still undecided is decided by sorting it, so none is missed."""


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
    """The paper's allocation: ONE threshold on cumulative importance for all layers (PrefixKV, equations of section 3.3).

    A layer keeps the shortest prefix of its ranked entries whose cumulative importance reaches the threshold `p`. So its
    entry of rank `o` is kept exactly when the importance before it is below `p`, and finding `p` for a total means
    taking the `total` smallest of these "importance before" numbers over all layers. The binary search narrows `p`;
    entries that no threshold can tell apart (equal numbers) are taken by rank, then by layer.

    Deviation: the paper scales the configuration when the sizes miss the budget; here they add up exactly.

    Args:
        concentrations: for each layer (entries,), descending shares that sum to 1 over all entries the layer has read;
            it may be cut off at the entries that the layer still stores.
        total: entries that all layers together may keep.
        floor: entries that every layer keeps whatever its importance (all it has, where that is fewer).

    Returns:
        Entries for each layer; their sum is `min(total, all entries)`.

    Raises:
        ValueError: when the floors alone exceed the total, or an importance is NaN.
    """
    lengths = [len(shares) for shares in concentrations]
    total = min(total, sum(lengths))
    if sum(min(floor, length) for length in lengths) > total:
        raise ValueError(f"{total} entries cannot hold {floor} in each of {len(lengths)} layers")
    before = torch.full((len(lengths), max(lengths)), torch.inf, dtype=torch.float64)
    for layer, shares in enumerate(concentrations):
        before[layer, 1 : lengths[layer]] = shares.double().cpu().cumsum(0)[:-1]
        before[layer, : min(floor, lengths[layer])] = -1.0
        before[layer, min(floor, lengths[layer]) : 1] = 0.0
    if before.isnan().any():
        raise ValueError("the importance of a layer is not a number")
    low, high = -1.0, 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if int((before < middle).sum()) <= total:
            low = middle
        else:
            high = middle
    kept = (before < low).sum(dim=1)
    undecided = ((before >= low) & before.isfinite()).nonzero()
    order = sorted((before[layer, rank].item(), rank, layer) for layer, rank in undecided.tolist()) if (
        missing := total - int(kept.sum())
    ) else []
    for _, _, layer in order[:missing]:
        kept[layer] += 1
    return [int(count) for count in kept]
