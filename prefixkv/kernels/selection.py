"""The most important entries of every row, in plain torch. Knows nothing of methods or caches."""

from __future__ import annotations

import torch


def selection(importance: torch.Tensor, kept_len: int, sink_tokens: int, recent_tokens: int) -> torch.Tensor:
    """The first and the last entries and, of the others, the most important ones; ties go to the earlier entry.

    Args:
        importance: (..., seen_len), float, not NaN. Not written to.
        kept_len: entries to keep, in 1 .. seen_len.
        sink_tokens: first entries that are always kept.
        recent_tokens: last entries that are always kept; `sink_tokens + recent_tokens <= kept_len`.

    Returns:
        (..., kept_len), int64: indices along `seen_len`, ascending.
    """
    seen_len = importance.shape[-1]
    priority = importance.clone()
    priority[..., :sink_tokens] = torch.inf
    priority[..., seen_len - recent_tokens :] = torch.inf
    ranked = priority.argsort(dim=-1, descending=True, stable=True)
    return ranked[..., :kept_len].sort(dim=-1).values
