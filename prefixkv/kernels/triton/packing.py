"""Packing in Triton; `prefixkv.kernels.packing` is its specification."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from prefixkv.kernels.packing import NORMAL_STEPS, packed_size
from prefixkv.kernels.packing import pack as plain_pack
from prefixkv.kernels.triton.hadamard import SMALLEST_HEAD, hadamard_rows
from prefixkv.kernels.triton.packed_rows import packed_rows, store_packed_rows

NUMBERS = 4096
"""Numbers that one program rounds."""


@triton.jit
def _pack_kernel(
    x_ptr, out_ptr, count,
    M: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    rows, dims = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M), tl.arange(0, D)
    inside = rows < count
    x = tl.load(x_ptr + rows[:, None] * D + dims[None, :], inside[:, None] & (dims >= 0)[None, :], 0.0)
    codes, step = packed_rows(hadamard_rows(x.to(tl.float32), M, D), M, D, BITS, STEP)
    store_packed_rows(out_ptr + rows * ROW, codes, step, inside, D, BITS)


def pack(vectors: torch.Tensor, bits: int) -> torch.Tensor:
    """As the plain twin; a number between two steps may come out on the other side."""
    head_dim = vectors.shape[-1]
    if head_dim < SMALLEST_HEAD or head_dim & (head_dim - 1) or not vectors.numel():
        return plain_pack(vectors, bits)
    vectors = vectors.contiguous()
    count, row, together = vectors.numel() // head_dim, packed_size(head_dim, bits), NUMBERS // head_dim
    out = torch.empty(*vectors.shape[:-1], row, dtype=torch.uint8, device=vectors.device)
    _pack_kernel[(triton.cdiv(count, together),)](
        vectors, out, count, M=together, D=head_dim, BITS=bits, STEP=NORMAL_STEPS.get(bits, 0.0), ROW=row, num_warps=4,
    )  # fmt: skip
    return out
