"""Scorers: pure functions that say how much every cached entry matters (float32, higher = keep).

A scorer sees one layer's queries and keys and returns `(batch, kv_heads, key_len)`. Knows nothing of budgets or caches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from prefixkv.kernels.attention_mass import attention_mass

Scorer = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def accumulated(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention summed over all queries (PrefixKV section 3, H2O), mean over the heads of a group.

    Args:
        queries: (batch, query_heads, query_len, head_dim), after RoPE.
        keys: (batch, kv_heads, key_len, head_dim), after RoPE; the last `query_len` belong to the queries.
        scale: factor on the dot products.

    Returns:
        (batch, kv_heads, key_len), float32, in queries.
    """
    return attention_mass(queries, keys, scale)


def recency(queries: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Newer is more important, whatever the attention (the local window of StreamingLLM, arXiv 2309.17453).

    Args:
        queries: (batch, query_heads, query_len, head_dim); only its device matters.
        keys: (batch, kv_heads, key_len, head_dim).
        scale: not used.

    Returns:
        (batch, 1, key_len), float32: 1 for the oldest entry, key_len for the newest.
    """
    rank = torch.arange(1, keys.shape[2] + 1, dtype=torch.float32, device=queries.device)
    return rank.expand(keys.shape[0], 1, -1)


SCORERS: dict[str, Scorer] = {"accumulated": accumulated, "recency": recency}
"""The scorers by the names that `prefixkv.methods` uses."""
