"""Attention mass: how much attention every key receives, streamed by query chunks.

Knows nothing of caches, layers or budgets. A query sees the keys up to its own place, the last query all of them.
"""

from __future__ import annotations

import torch

BLOCK_ELEMENTS = 4 * 2**20
"""Most attention weights that exist at once, for each batch row (16 MiB in float32)."""


def attention_mass(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Sum over the queries of the causal attention weights, mean over each group of query heads.

    With weights `a[h, i, j] = softmax_j(scale * q[h, i] . k[h, j])`, the result for kv head `g` and key `j` is
    `sum_i mean_{h in g} a[h, i, j]`. The attention matrix is never built whole: queries are taken in chunks of so few
    rows that a chunk's weights stay below `BLOCK_ELEMENTS`, so memory grows linearly with the number of keys at most.

    Args:
        queries: (batch, query_heads, query_len, head_dim), any float dtype, after RoPE.
        keys: (batch, kv_heads, key_len, head_dim), same dtype, after RoPE; key_len >= query_len. Query `i` sees keys
            `0 .. key_len - query_len + i`.
        scale: factor on the dot products, usually `head_dim ** -0.5`.

    Returns:
        (batch, kv_heads, key_len), float32. Its sum over the keys is `query_len` for every row and head.
    """
    batch, query_heads, query_len, head_dim = queries.shape
    kv_heads, key_len = keys.shape[1:3]
    grouped = queries.reshape(batch, kv_heads, query_heads // kv_heads, query_len, head_dim).float() * scale
    keys = keys.float().unsqueeze(2).transpose(-1, -2)
    mass = torch.zeros(batch, kv_heads, key_len, dtype=torch.float32, device=keys.device)
    chunk = max(1, min(query_len, BLOCK_ELEMENTS // (query_heads * key_len)))
    for start in range(0, query_len, chunk):
        stop = min(start + chunk, query_len)
        visible = key_len - query_len + stop
        weights = grouped[..., start:stop, :] @ keys[..., :visible]
        hidden = torch.ones(stop - start, visible, dtype=torch.bool, device=keys.device)
        weights.masked_fill_(hidden.triu_(visible - (stop - start) + 1), float("-inf"))
        mass[..., :visible] += torch.softmax(weights, dim=-1).sum(dim=-2).mean(dim=2)
    return mass
