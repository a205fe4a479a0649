"""Causal attention of a prompt that is compressed, by a kernel that may be asked for the rows' log-sum-exp too.

That number is what scoring needs from the softmax, and the attention kernel has it already. It is the kernel that
torch would choose, but for one case: for every new length, and in every thread anew, cuDNN first makes a plan, which
takes the host much longer than a layer takes the device, and few prompts are as long as one before. Flash attention
needs no plan; 32 layers of it take 5 ms more on an H100 at 2,944 tokens, and four times as much at twice the length.
"""

from __future__ import annotations

import torch

from prefixkv.kernels import row_lse

FLASH, CUDNN = 1, 3
"""Values of `torch.nn.attention.SDPBackend`."""
HEAD_STEP = 8
"""Both kernels take heads of a multiple of so many elements; torch pads others before it calls them."""
MOST_HEAD = 256
"""Elements of a head that flash attention takes."""
PLAN_TOKENS = 8192
"""From so many tokens on cuDNN is worth its plan."""


def scored_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, is_summed: bool = True
) -> torch.Tensor | None:
    """Attend, and leave the log-sum-exp in `row_lse` for these queries where it will be asked for.

    Args:
        query: (batch, query_heads, length, head_dim).
        key: (batch, kv_heads, length, head_dim), same dtype.
        value: same shape as the keys.
        scale: factor on the dot products.
        is_summed: whether the attention of all these queries will be summed.

    Returns:
        (batch, length, query_heads, head_dim); None where no kernel gives the number (on the CPU, in float32, where
        lengths differ, or where the head's size is no multiple of 8), or where it is not wanted and torch's own choice
        needs no plan.
    """
    fits = query.shape[2] == key.shape[2] and query.shape[3] % HEAD_STEP == 0
    if not query.is_cuda or not fits or query.requires_grad:
        return None
    grouped = query.shape[1] != key.shape[1]
    backend = torch._fused_sdp_choice(query, key, value, None, 0.0, True, scale=scale, enable_gqa=grouped)
    if backend == CUDNN and query.shape[2] < PLAN_TOKENS and _flash_takes(query):
        backend = FLASH
    elif not is_summed:
        return None
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
    if is_summed:
        row_lse.remember(query, lse.reshape(query.shape[:3]))
    return output.transpose(1, 2)


def _flash_takes(query: torch.Tensor) -> bool:
    allowed = torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.is_flash_attention_available()
    return allowed and query.shape[3] <= MOST_HEAD
