"""Precedence: which entries come first where a layer holds only a few. Pure functions on tensors of importance."""

from __future__ import annotations

import torch

from prefixkv.methods.method import FEW


def with_means(peak: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Importance by the largest attention, where two of the first entries by the mean come before each of the others.

    The largest attention says what some query needs. Where few entries stay it leaves out those that all queries need a
    little, and these are worth more than further peaks. Only the first `FEW` by the mean are changed, so that a layer
    which holds many keeps what it would have kept.

    Args:
        peak: (batch, heads, entries), float32, not negative: the largest attention to each entry.
        mean: same shape: the mean attention.

    Returns:
        The importance, same shape.
    """
    count = min(FEW, peak.shape[-1])
    # Two steps and one step of float32 above the peak that comes behind both.
    top = peak.new_full((), torch.inf)
    second = torch.nextafter(peak.topk((count + 1) // 2).values, top)
    raised = torch.stack([torch.nextafter(second, top), second], dim=-1).flatten(-2)[..., :count]
    places = mean.topk(count).indices
    return peak.scatter(-1, places, torch.maximum(peak.gather(-1, places), raised))


def with_newest(importance: torch.Tensor, newest: int) -> torch.Tensor:
    """Place the newest entries at every second rank: the last one at rank 0, the one before it at rank 2.

    Args:
        importance: (batch, heads, entries), float32, not negative; the last entries in text order.
        newest: how many are placed; no more than half of all are.

    Returns:
        The importance, same shape: that of the others is as it was.
    """
    count = min(newest, importance.shape[-1] // 2)
    if not count:
        return importance
    others = importance[..., :-count]
    # One step above the entry that follows.
    above = torch.nextafter(others.topk(count).values, importance.new_full((), torch.inf))
    return torch.cat([others, above.flip(-1)], dim=-1)
