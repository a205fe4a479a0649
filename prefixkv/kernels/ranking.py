"""Ranking: the order in which a layer's entries are given up, in plain torch. Knows nothing of methods or caches."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def ranking(
    importance: torch.Tensor, sink_tokens: int, recent_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rank entries: the last ones, then the first ones, then the others by importance; ties go to the earlier entry.

    Args:
        importance: (..., seen_len), float. Not written to.
        sink_tokens: first entries that go last.
        recent_tokens: last entries that go after those.

    Returns:
        The importance from the highest to the lowest, wherever its entry ranks, in its shape and dtype; the entries by
        rank, same shape, int64; and each entry's rank, same shape, int32.
    """
    seen_len = importance.shape[-1]
    values, order = importance.sort(dim=-1, descending=True, stable=True)
    group = torch.where(order < sink_tokens, 1, 2).masked_fill(order >= seen_len - recent_tokens, 0)
    order = order.gather(-1, group.argsort(dim=-1, stable=True))
    places = torch.arange(seen_len, dtype=torch.int32, device=order.device).expand_as(order)
    return values, order, torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places)


def first_ranked(ranks: Sequence[torch.Tensor], counts: Sequence[int]) -> list[torch.Tensor]:
    """The places of the entries that rank first, in the order of the places, of several layers.

    Args:
        ranks: of each layer (batch, heads, entries), int32: each entry's rank; all of `0 .. count - 1` are there.
            Layers may differ in each of the three.
        counts: how many stay in each.

    Returns:
        For each layer (batch, heads, count), int64, ascending.
    """
    pairs = zip(ranks, counts, strict=True)
    return [(each < count).nonzero()[:, 2].view(*each.shape[:2], count) for each, count in pairs]
