"""Packing in Triton; `prefixkv.kernels.packing` is its specification."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from prefixkv.kernels.packing import NORMAL_STEP, packed_size
from prefixkv.kernels.packing import pack as plain_pack
from prefixkv.kernels.triton.packed_attention import SMALLEST_HEAD, codes, signs


@triton.jit
def _pack_kernel(
    x_ptr, signs_ptr, out_ptr, count, norm,
    M: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    dims, columns = tl.arange(0, D), tl.arange(0, D // 2)
    inside = rows < count
    x = tl.load(x_ptr + rows[:, None] * D + dims[None, :], inside[:, None] & (dims >= 0)[None, :], 0.0)
    signs_low = tl.load(signs_ptr + dims[:, None] * D + columns[None, :])
    signs_high = tl.load(signs_ptr + dims[:, None] * D + D // 2 + columns[None, :])
    low, high, step = codes(
        tl.dot(x, signs_low, input_precision="ieee") * norm,
        tl.dot(x, signs_high, input_precision="ieee") * norm,
        BITS, STEP, D,
    )  # fmt: skip
    target = out_ptr + rows[:, None] * ROW + columns[None, :]
    stored = inside[:, None] & (columns >= 0)[None, :]
    if BITS == 8:
        tl.store(target, low.to(tl.uint8), stored)
        tl.store(target + D // 2, high.to(tl.uint8), stored)
    else:
        tl.store(target, (low | (high << 4)).to(tl.uint8), stored)
    steps = (out_ptr + D * BITS // 8).to(tl.pointer_type(tl.float16)) + rows * (ROW // 2)
    tl.store(steps, step.to(tl.float16), inside)


def pack(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    """As the plain twin; a number between two steps may come out on the other side."""
    head_dim = vectors.shape[-1]
    if head_dim < SMALLEST_HEAD or head_dim & (head_dim - 1) or not vectors.numel():
        return plain_pack(vectors, bits)
    vectors = vectors.contiguous()
    count, row = vectors.numel() // head_dim, packed_size(head_dim, bits)
    out = torch.empty(*vectors.shape[:-1], row, dtype=torch.uint8, device=vectors.device)
    _pack_kernel[(triton.cdiv(count, 32),)](
        vectors, signs(head_dim, vectors.device, vectors.dtype), out, count, head_dim**-0.5,
        M=32, D=head_dim, BITS=bits, STEP=NORMAL_STEP, ROW=row, num_warps=4,
    )  # fmt: skip
    return out
