"""Rotary positions (RoPE, arXiv 2104.09864) of a chunk's queries and keys, where they lie."""

from __future__ import annotations

import torch


def rotary(
    query: torch.Tensor, key: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn every head of every token by its position's angles, rounded where transformers rounds.

    Args:
        query: (batch * tokens, query_heads * head_dim), batch row by batch row; head `h` is `h * head_dim ..`. May be
            written to.
        key: (batch * tokens, kv_heads * head_dim), same dtype. May be written to.
        cosine: (batch or 1, tokens, head_dim), same dtype; its halves need not be equal.
        sine: same shape.

    Returns:
        Query and key after RoPE, in their shapes.
    """
    tokens, head_dim = cosine.shape[1:]

    def turned(x: torch.Tensor) -> torch.Tensor:
        heads = x.reshape(-1, tokens, x.shape[1] // head_dim, head_dim)
        first, second = heads.chunk(2, dim=-1)
        partner = torch.cat([-second, first], dim=-1)
        return (heads * cosine[:, :, None] + partner * sine[:, :, None]).reshape(x.shape)

    return turned(query), turned(key)
