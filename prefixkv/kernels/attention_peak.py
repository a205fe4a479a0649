"""Attention peak: the largest attention that any of a few queries pays to every key, and the mean beside it.

Knows nothing of caches, layers or budgets.
"""

from __future__ import annotations

import torch

TOGETHER = 64
"""Queries whose weights exist at once."""


def attention_peak(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, own: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximum and mean over the queries, and over each group of query heads, of the attention weights.

    With weights `a[h, i, j] = softmax_j(scale * q[h, i] . k[h, j])`, the results for kv head `g` and key `j` are
    `max_i max_{h in g} a[h, i, j]` and `sum_i w_i mean_{h in g} a[h, i, j]`. Own queries have half of the weight, and
    so have the others; where there are only some of one kind, they have all of it.

    Args:
        queries: (batch or 1, query_heads, count, head_dim), any float dtype, after RoPE; one at least.
        keys: (batch, kv_heads, key_len, head_dim), same dtype, after RoPE.
        scale: factor on the dot products, usually `head_dim ** -0.5`.
        own: how many of the queries, the first ones, belong to the last `own` keys and see none behind their own; the
            others see all.

    Returns:
        Maximum and mean, each (batch, kv_heads, key_len), float32, in [0, 1].
    """
    kv_heads, key_len = keys.shape[1:3]
    grouped = queries.unflatten(1, (kv_heads, -1)).float() * scale
    transposed = keys.float().transpose(-1, -2)
    hidden = torch.ones(own, own, dtype=torch.bool, device=keys.device).triu_(1)
    shares = query_weights(queries.shape[2], own)
    peaks, means = [], []
    for first in range(0, grouped.shape[3], TOGETHER):
        some = grouped[..., first : first + TOGETHER, :]
        # The heads of a group as queries of one: else their keys would be copied for each.
        weights = (some.flatten(2, 3) @ transposed).unflatten(2, some.shape[2:4])
        seen = hidden[first : first + TOGETHER]
        if len(seen):
            weights[..., : len(seen), key_len - own :].masked_fill_(seen, float("-inf"))
        weights = torch.softmax(weights, dim=-1)
        peaks.append(weights.amax(dim=(2, 3)))
        parts = weights.mean(dim=2)
        split = min(max(0, own - first), parts.shape[2])
        means.append(shares[0] * parts[:, :, :split].sum(dim=2) + shares[1] * parts[:, :, split:].sum(dim=2))
    return torch.stack(peaks).amax(dim=0), torch.stack(means).sum(dim=0)


def query_weights(count: int, own: int) -> tuple[float, float]:
    """What each of the own queries weighs in the mean, and what each of the others does.

    Args:
        count: of all queries.
        own: of the own ones among them.
    """
    kinds = (own > 0) + (count > own)
    return 1 / (kinds * max(1, own)), 1 / (kinds * max(1, count - own))
