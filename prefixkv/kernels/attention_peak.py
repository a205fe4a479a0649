"""Attention peak: the largest attention that any of a few queries pays to every key.

Knows nothing of caches, layers or budgets.
"""

from __future__ import annotations

import torch

TOGETHER = 64
"""Queries whose weights exist at once."""


def attention_peak(queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int = 0) -> torch.Tensor:
    """Maximum over the queries, and over each group of query heads, of the attention weights.

    With weights `a[h, i, j] = softmax_j(scale * q[h, i] . k[h, j])`, the result for kv head `g` and key `j` is
    `max_i max_{h in g} a[h, i, j]`.

    Args:
        queries: (batch or 1, query_heads, count, head_dim), any float dtype, after RoPE; one at least.
        keys: (batch, kv_heads, key_len, head_dim), same dtype, after RoPE.
        scale: factor on the dot products, usually `head_dim ** -0.5`.
        own: how many of the queries, the first ones, belong to the last `own` keys and see none behind their own; the
            others see all.

    Returns:
        (batch, kv_heads, key_len), float32, in [0, 1].
    """
    kv_heads, key_len = keys.shape[1:3]
    grouped = queries.unflatten(1, (kv_heads, -1)).float() * scale
    transposed = keys.float().unsqueeze(2).transpose(-1, -2)
    hidden = torch.ones(own, own, dtype=torch.bool, device=keys.device).triu_(1)
    peaks = []
    for first in range(0, grouped.shape[3], TOGETHER):
        weights = grouped[..., first : first + TOGETHER, :] @ transposed
        seen = hidden[first : first + TOGETHER]
        if len(seen):
            weights[..., : len(seen), key_len - own :].masked_fill_(seen, float("-inf"))
        peaks.append(torch.softmax(weights, dim=-1).amax(dim=(2, 3)))
    return torch.stack(peaks).amax(dim=0)
