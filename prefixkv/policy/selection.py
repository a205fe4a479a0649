"""Selection: which entries stay, given their importance and how many may. Pure functions; knows nothing of caches."""

from __future__ import annotations

import torch

from prefixkv.kernels.dispatch import curve, selection


def select(importance: torch.Tensor, kept_len: int, sink_tokens: int, recent_tokens: int) -> torch.Tensor:
    """The protected entries and, of the others, the most important ones; ties go to the earlier entry.

    Args:
        importance: (batch, heads, seen_len), float; one row of entries for each head, or `heads` = 1 where all heads
            share a choice. Entries are in the order of their positions. Not written to.
        kept_len: entries to keep, in 1 .. seen_len.
        sink_tokens: first entries that are always kept.
        recent_tokens: last entries that are always kept; where both do not fit, the newest come first.

    Returns:
        (batch, heads, kept_len), int64: indices along `seen_len`, ascending.

    Example:
        `select(tensor([[[5., 1., 3., 2.]]]), kept_len=2, sink_tokens=0, recent_tokens=1)` is `[[[0, 3]]]`.
    """
    seen_len = importance.shape[-1]
    recent_tokens = min(recent_tokens, kept_len)
    sink_tokens = min(sink_tokens, kept_len - recent_tokens)
    rows = importance.float().reshape(-1, seen_len)
    return selection(rows, kept_len, sink_tokens, recent_tokens).reshape(*importance.shape[:-1], kept_len)


def cumulative_importance(importance: torch.Tensor) -> torch.Tensor:
    """Importance of a layer's 1, 2, ... most important entries together (the paper's prefix cumulative priority).

    Args:
        importance: (batch, heads, seen_len), float, not negative.

    Returns:
        (seen_len,), float64, ascending to 1: the mean over rows and heads of their sorted, normalised and summed
        importance. An all-zero row counts as flat.
    """
    return curve(importance.float().flatten(0, -2).sort(dim=-1, descending=True).values)
