"""Causal attention by the very kernel that torch would choose, asked for the rows' log-sum-exp too.

That number is what scoring needs from the softmax, and the attention kernel has it already. Same kernel, same output.
"""

from __future__ import annotations

import torch

from prefixkv.kernels import row_lse

FLASH, CUDNN = 1, 3
"""Values of `torch.nn.attention.SDPBackend`."""
HEAD_STEP = 8
"""Both kernels take heads of a multiple of so many elements; torch pads others before it calls them."""


def scored_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor | None:
    """Attend, and leave the log-sum-exp in `row_lse` for these queries.

    Args:
        query: (batch, query_heads, length, head_dim).
        key: (batch, kv_heads, length, head_dim), same dtype.
        value: same shape as the keys.
        scale: factor on the dot products.

    Returns:
        (batch, length, query_heads, head_dim); None where no kernel gives the number: on the CPU, in float32, where
        lengths differ, or where the head's size is no multiple of 8.
    """
    fits = query.shape[2] == key.shape[2] and query.shape[3] % HEAD_STEP == 0
    if not query.is_cuda or not fits or query.requires_grad:
        return None
    grouped = query.shape[1] != key.shape[1]
    backend = torch._fused_sdp_choice(query, key, value, None, 0.0, True, scale=scale, enable_gqa=grouped)
    operations = torch.ops.aten
    if backend == CUDNN:
        output, lse = operations._scaled_dot_product_cudnn_attention(
            query, key, value, None, True, 0.0, True, False, scale=scale
        )[:2]
    elif backend == FLASH:
        output, lse = operations._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)[
            :2
        ]
    else:
        return None
    row_lse.remember(query, lse.reshape(query.shape[:3]))
    return output.transpose(1, 2)
