"""Rotary positions of a chunk in Triton; `prefixkv.kernels.rotary` is the specification.

One launch for queries and keys, which are overwritten: a program has both halves of some heads of one token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

HEADS = 16
"""Heads of one program."""


@triton.jit
def _rotary_kernel(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_row, k_row, angle_batch, angle_row, tokens, query_heads, heads,
    HALF: tl.constexpr, D: tl.constexpr, H: tl.constexpr,
):  # fmt: skip
    row, head, dims = tl.program_id(0).to(tl.int64), tl.program_id(1) * H + tl.arange(0, H), tl.arange(0, D)
    in_half = dims < HALF
    angles = row // tokens * angle_batch + row % tokens * angle_row + dims
    cosine0 = tl.load(cos_ptr + angles, in_half, 0.0).to(tl.float32)[None, :]
    cosine1 = tl.load(cos_ptr + angles + HALF, in_half, 0.0).to(tl.float32)[None, :]
    sine0 = tl.load(sin_ptr + angles, in_half, 0.0).to(tl.float32)[None, :]
    sine1 = tl.load(sin_ptr + angles + HALF, in_half, 0.0).to(tl.float32)[None, :]
    queries, keys = q_ptr + row * q_row + head * (2 * HALF), k_ptr + row * k_row + (head - query_heads) * (2 * HALF)
    first = tl.where(head < query_heads, queries, keys)[:, None] + dims[None, :]
    inside = (head < heads)[:, None] & in_half[None, :]
    x, y = tl.load(first, inside, 0.0), tl.load(first + HALF, inside, 0.0)
    kind: tl.constexpr = x.dtype
    x, y = x.to(tl.float32), y.to(tl.float32)
    turned = (x * cosine0).to(kind).to(tl.float32) - (y * sine0).to(kind).to(tl.float32)
    partner = (y * cosine1).to(kind).to(tl.float32) + (x * sine1).to(kind).to(tl.float32)
    tl.store(first, turned.to(kind), inside)
    tl.store(first + HALF, partner.to(kind), inside)


def rotary(
    query: torch.Tensor, key: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the plain twin, in place where a row's numbers lie side by side."""
    batches, tokens, head_dim = cosine.shape
    query_heads, heads = query.shape[1] // head_dim, (query.shape[1] + key.shape[1]) // head_dim
    query, key = (part if part.stride(1) == 1 else part.contiguous() for part in (query, key))
    cosine, sine = (angles if angles.stride(-1) == 1 else angles.contiguous() for angles in (cosine, sine))
    if cosine.stride() != sine.stride():
        cosine, sine = cosine.contiguous(), sine.contiguous()
    # Products are rounded before they are added, which a fused multiplication would not do.
    _rotary_kernel[(query.shape[0], triton.cdiv(heads, HEADS))](
        query, key, cosine, sine, query.stride(0), key.stride(0), cosine.stride(0) if batches > 1 else 0,
        cosine.stride(1), tokens, query_heads, heads,
        HALF=head_dim // 2, D=triton.next_power_of_2(head_dim // 2), H=HEADS, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return query, key
