"""Attention with capped logits or with sinks, which torch's fused kernels lack; streamed by query chunks."""

from __future__ import annotations

import torch

BLOCK_ELEMENTS = 4 * 2**20
"""Most attention weights that exist at once, for each batch row (16 MiB in float32)."""


def capped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention whose logits are squeezed into (-softcap, softcap) by tanh (Gemma 2, arXiv 2408.00118, 2).

    Args:
        query: (batch, query_heads, query_len, head_dim).
        key: (batch, kv_heads, key_len, head_dim), key_len >= query_len.
        value: same shape as the keys.
        mask: bool, broadcasts to (batch, 1, query_len, key_len), True where a query sees a key; None for causal
            attention with the last query seeing all keys.
        scale: factor on the dot products.
        softcap: bound of the logits; None for none.
        sinks: (query_heads,): a logit beside those of the keys that takes its share of the softmax and gives nothing
            (as in GPT-OSS); None for none.

    Returns:
        (batch, query_len, query_heads, head_dim).
    """
    query_heads, query_len = query.shape[1:3]
    group, key_len = query_heads // key.shape[1], key.shape[2]
    keys, values = (part.repeat_interleave(group, dim=1) for part in (key, value))
    places = torch.arange(key_len, device=key.device)
    pieces = []
    chunk = max(1, min(query_len, BLOCK_ELEMENTS // (query_heads * key_len)))
    for start in range(0, query_len, chunk):
        stop = min(start + chunk, query_len)
        logits = (query[:, :, start:stop] @ keys.transpose(2, 3) * scale).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        last_seen = torch.arange(start, stop, device=key.device)[:, None] + key_len - query_len
        visible = places <= last_seen if mask is None else mask[:, :, start:stop]
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
        if sinks is not None:
            beside = sinks.float().reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            logits = torch.cat([logits, beside], dim=-1)
        weights = logits.softmax(dim=-1)[..., :key_len].to(query.dtype)
        pieces.append(weights @ values)
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous()
