"""Row mass: how much attention the keys receive from some of the queries, each with a weight of its own."""

from __future__ import annotations

import torch

from prefixkv.kernels.attention_mass import BLOCK_ELEMENTS


def row_mass(
    queries: torch.Tensor, keys: torch.Tensor, scale: float, places: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted sum of the attention weights of queries at given places, mean over each group of query heads.

    Args:
        queries: (query_heads, count, head_dim), any float dtype, after RoPE.
        keys: (kv_heads, key_len, head_dim), same dtype, after RoPE.
        scale: factor on the dot products.
        places: (count,), int64: the key that each query belongs to; it sees the keys up to that one.
        weights: (kv_heads, count), float32.

    Returns:
        (kv_heads, key_len), float32.
    """
    kv_heads, key_len = keys.shape[:2]
    grouped = queries.unflatten(0, (kv_heads, -1)).float() * scale
    columns = keys.float().unsqueeze(1).transpose(-1, -2)
    mass = torch.zeros(kv_heads, key_len, dtype=torch.float32, device=keys.device)
    chunk = max(1, BLOCK_ELEMENTS // (queries.shape[0] * key_len))
    for start in range(0, queries.shape[1], chunk):
        rows = slice(start, start + chunk)
        hidden = torch.arange(key_len, device=keys.device) > places[rows, None]
        attention = (grouped[:, :, rows] @ columns).masked_fill_(hidden, float("-inf")).softmax(dim=-1)
        mass += (attention.mean(dim=1) * weights[:, rows, None]).sum(dim=1)
    return mass
