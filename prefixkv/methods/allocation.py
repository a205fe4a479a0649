"""Allocation: how many entries each layer keeps. Pure functions on plain numbers; exact, and they always end.

Every allocator gives whole numbers that add up to the total (or to all there is, if that is less), each between the
layer's floor and the entries it has. Knows nothing of torch, so that a search from a stored profile starts at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

from prefixkv.errors import PrefixKVError

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


def prefix(
    curves: Sequence[Sequence[float]], total: int, floor: int, ceilings: Sequence[int] | None = None
) -> list[int]:
    """The paper's allocation: ONE threshold on cumulative importance for all layers (PrefixKV, section 3.3).

    A layer keeps the shortest prefix of its ranked entries whose cumulative importance reaches the threshold `p`: the
    entry of rank `o` is kept exactly when the importance before it is below `p`, and finding `p` for a total means
    taking the `total` smallest of these "importance before" numbers over all layers. The binary search narrows `p`;
    entries that no threshold can tell apart (equal numbers) are taken by rank, then by layer.

    Deviation: the paper scales the configuration when the sizes miss the budget; here they add up exactly.

    Args:
        curves: for each layer the cumulative importance of its 1, 2, ... most important entries, ascending to 1 over
            all entries that the layer has read.
        total: entries that all layers together may keep.
        floor: entries that every layer keeps whatever its importance (all it has, where that is fewer).
        ceilings: for each layer the entries that it still stores; None where that is all that it has read.

    Returns:
        Entries for each layer; their sum is `min(total, all entries)`.

    Raises:
        ValueError: when the floors alone exceed the total.
        PrefixKVError: an importance is not a number.
    """
    for layer, curve in enumerate(curves):
        if math.isnan(curve[-1]) or math.isnan(curve[0]):
            raise PrefixKVError(f"the attention of compressed layer {layer} is not a number (NaN): try --dtype float32")
    lengths = [len(curve) for curve in curves] if ceilings is None else list(ceilings)
    total = min(total, sum(lengths))
    if sum(min(floor, length) for length in lengths) > total:
        raise ValueError(f"{total} entries cannot hold {floor} in each of {len(lengths)} layers")

    def kept_below(threshold: float) -> list[int]:
        # The importance before rank 0 is 0, before any other rank it is the curve's value one rank earlier.
        reached = [
            bisect_left(curve, threshold, 0, length - 1) + 1 if threshold > 0 else 0
            for curve, length in zip(curves, lengths, strict=True)
        ]
        return [max(min(floor, length), rank) for length, rank in zip(lengths, reached, strict=True)]

    low, high = -1.0, 2.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kept = kept_below(middle)
        if sum(kept) == total:
            return kept
        if sum(kept) < total:
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


EVEN_PARTS = 3
"""Of four parts of a layer's share under `mixed`, those that are the same for all layers."""
EVEN_SHARES = {"uniform": Fraction(1), "mixed": Fraction(EVEN_PARTS, EVEN_PARTS + 1)}
"""The part of the total that is dealt to all layers evenly whatever the text is, by what the way of sharing is called;
nothing where it is not named."""


def mixed(even: Sequence[int], by_threshold: Sequence[int]) -> list[int]:
    """Three quarters of one allocation and a quarter of another; what is left over rounds every fourth one up.

    Returns:
        Entries for each layer; their sum is that of the parts, rounded down.
    """
    left, kept = 0, []
    for one, other in zip(even, by_threshold, strict=True):
        count, rest = divmod(EVEN_PARTS * one + other, EVEN_PARTS + 1)
        is_up = left + rest > EVEN_PARTS
        left = (left + rest) % (EVEN_PARTS + 1)
        kept.append(count + is_up)
    return kept


def mixed_floor(least: int, even: int, floor: int) -> int:
    """The floor of the allocation by threshold with which `mixed` gives every layer a least number of entries.

    Args:
        least: entries that every layer shall keep, where the even share has as many.
        even: the even share of a layer.
        floor: entries that every layer keeps anyhow.
    """
    return min(even, max(floor, (EVEN_PARTS + 1) * least - EVEN_PARTS * even))


def trimmed(counts: Sequence[int], total: int) -> list[int]:
    """Sizes that add up to no more than the total: what is too much goes from the largest layers, one by one.

    Args:
        counts: entries for each layer.
        total: entries that all layers together may keep, at least one for each.
    """
    kept = list(counts)
    for _ in range(sum(kept) - total):
        kept[kept.index(max(kept))] -= 1
    return kept


PYRAMID_SLOPE = 20
"""PyramidKV's beta: the top layer keeps one part in so many of the mean."""


def pyramid(total: int, layers: int, entries: int, floor: int) -> list[int]:
    """Shares that fall evenly from the first layer to the last (PyramidKV, arXiv 2406.02069, section 4.2).

    The last layer keeps the mean divided by `PYRAMID_SLOPE`, the first what makes up for it, but no more than there is.
    Deviation: the observation window counts as part of a layer's share.

    Args:
        total: entries that all layers together keep.
        layers: number of layers.
        entries: entries that every layer has.
        floor: entries that every layer keeps at least.
    """
    average = total / layers
    low = max(average / PYRAMID_SLOPE, 2 * average - entries)
    step = 2 * (average - low) / max(1, layers - 1)
    shares = [2 * average - low - layer * step if layers > 1 else average for layer in range(layers)]
    return proportional([max(share, 1e-9) for share in shares], total, floor, entries)


def text_first(masses: Sequence[float], total: int, text_tokens: int, floor: int, entries: int) -> list[int]:
    """Every layer holds the text; the rest is dealt by how much attention the text pays to pictures (TGV-KV).

    Args:
        masses: for each layer the attention from text to pictures.
        total: entries that all layers together keep.
        text_tokens: entries of text that every layer has.
        floor: entries that every layer keeps at least.
        entries: entries that every layer has.
    """
    layers = len(masses)
    rest = total - layers * text_tokens
    if rest <= 0 or not any(masses):
        return uniform(total, layers)
    pictures = proportional(
        [max(mass, 1e-9) for mass in masses], rest, max(0, floor - text_tokens), entries - text_tokens
    )
    return [text_tokens + count for count in pictures]


def release(curves: Sequence[Sequence[float]], share: float, floor: int) -> list[int]:
    """The sizes that PrefixKV's released code finds for one sample (its profile mode, on a budget of its own).

    It halves the interval of thresholds until the entries that all layers forget miss the target by less than 5, then
    scales what each layer forgets to the target and cuts the fractions off. Deviation: it gives up halving when the
    interval has no middle any more, where the release goes on for ever.

    Args:
        curves: for each layer the cumulative importance of its 1, 2, ... most important entries.
        share: of the entries to keep, in (0, 1].
        floor: entries that every layer keeps: those that the release protects.
    """
    lengths = [len(curve) for curve in curves]
    target = (1 - share) * sum(lengths)

    def forgotten(threshold: float) -> list[int]:
        return [
            max(0, length - bisect_left(curve, threshold) - floor)
            for curve, length in zip(curves, lengths, strict=True)
        ]

    low, high = 0.0, 1.0
    counts = forgotten(0.5)
    for _ in range(2 * BISECTIONS):
        middle = (low + high) / 2
        counts = forgotten(middle)
        if abs(sum(counts) - target) < RELEASE_TOLERANCE:
            break
        if sum(counts) > target:
            low = middle
        else:
            high = middle
    scale = target / sum(counts) if sum(counts) else 0.0
    return [max(floor, length - int(count * scale)) for count, length in zip(counts, lengths, strict=True)]


RELEASE_TOLERANCE = 5


def release_known(shares: Sequence[float], entries: int, floor: int) -> list[int]:
    """The sizes that the released code keeps of a prompt: each layer forgets its share, rounded to the nearest integer.

    Args:
        shares: keep fractions of the layers; the release stores one minus these.
        entries: tokens of the prompt.
        floor: entries that are protected.
    """
    return [min(entries, max(floor, entries - round((1 - share) * entries))) for share in shares]


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
