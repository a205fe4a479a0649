"""Allocation: how many entries each layer keeps. Pure functions on plain numbers; exact, and they always end.

Every allocator gives whole numbers that add up to the total (or to all there is, if that is less), each between the
layer's floor and the entries it has. Knows nothing of torch, so that a search from a stored profile starts at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

BISECTIONS = 32
"""Halvings of an interval; what is still undecided then is ordered one by one, so none is missed."""


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


def prefix(curves: Sequence[Sequence[float]], total: int, floor: int) -> list[int]:
    """The paper's allocation: ONE threshold on cumulative importance for all layers (PrefixKV, section 3.3).

    A layer keeps the shortest prefix of its ranked entries whose cumulative importance reaches the threshold `p`: the
    entry of rank `o` is kept exactly when the importance before it is below `p`, and finding `p` for a total means
    taking the `total` smallest of these "importance before" numbers over all layers. The binary search narrows `p`;
    entries that no threshold can tell apart (equal numbers) are taken by rank, then by layer.

    Deviation: the paper scales the configuration when the sizes miss the budget; here they add up exactly.

    Args:
        curves: for each layer the cumulative importance of its 1, 2, ... most important entries, ascending to 1 over
            all entries that the layer has read; may be cut off at the entries that it still stores.
        total: entries that all layers together may keep.
        floor: entries that every layer keeps whatever its importance (all it has, where that is fewer).

    Returns:
        Entries for each layer; their sum is `min(total, all entries)`.

    Raises:
        ValueError: when the floors alone exceed the total, or an importance is not a number.
    """
    if any(math.isnan(curve[-1]) or math.isnan(curve[0]) for curve in curves):
        raise ValueError("the importance of a layer is not a number")
    lengths = [len(curve) for curve in curves]
    total = min(total, sum(lengths))
    if sum(min(floor, length) for length in lengths) > total:
        raise ValueError(f"{total} entries cannot hold {floor} in each of {len(lengths)} layers")

    def kept_below(threshold: float) -> list[int]:
        # The importance before rank 0 is 0, before any other rank it is the curve's value one rank earlier.
        reached = [bisect_left(curve, threshold, 0, len(curve) - 1) + 1 if threshold > 0 else 0 for curve in curves]
        return [max(min(floor, length), rank) for length, rank in zip(lengths, reached, strict=True)]

    low, high = -1.0, 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if sum(kept_below(middle)) <= total:
            low = middle
        else:
            high = middle
    kept, beyond = kept_below(low), kept_below(high)
    undecided = sorted(
        (curve[rank - 1] if rank else 0.0, rank, layer)
        for layer, curve in enumerate(curves)
        for rank in range(kept[layer], beyond[layer])
    )
    for _, _, layer in undecided[: total - sum(kept)]:
        kept[layer] += 1
    return kept


def proportional(shares: Sequence[float], total: int, floor: int, entries: int) -> list[int]:
    """Sizes in the proportions of a configuration, scaled to the total.

    Args:
        shares: for each layer its keep fraction; only their proportions matter.
        total: entries that all layers together may keep.
        floor: entries that every layer keeps at least (all it has, where that is fewer).
        entries: entries that every layer has; none keeps more.

    Returns:
        Entries for each layer; their sum is `min(total, all entries)`. What rounding down leaves over goes to the
        largest remainders, then to the first layers.

    Raises:
        ValueError: when the floors alone exceed the total.
    """
    floor, total = min(floor, entries), min(total, entries * len(shares))
    if floor * len(shares) > total:
        raise ValueError(f"{total} entries cannot hold {floor} in each of {len(shares)} layers")

    def sizes(scale: float) -> list[float]:
        return [min(max(share * scale, floor), entries) for share in shares]

    low, high = 0.0, entries / min(shares)
    for _ in range(2 * BISECTIONS):
        middle = (low + high) / 2
        if sum(sizes(middle)) <= total:
            low = middle
        else:
            high = middle
    exact = sizes(low)
    kept = [int(size) for size in exact]
    by_remainder = sorted(range(len(shares)), key=lambda layer: (kept[layer] - exact[layer], layer))
    while missing := total - sum(kept):
        for layer in [layer for layer in by_remainder if kept[layer] < entries][:missing]:
            kept[layer] += 1
    return kept
