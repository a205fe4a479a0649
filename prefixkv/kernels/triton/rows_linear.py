"""A linear layer for a few rows, bound by reading its weights: a program has a few outputs of all rows.

Up to three weights with the same inputs share a launch, without being copied together, and SwiGLU or the residual is
taken on the way out. Weights are the rows of the matrix units, so that few columns are wasted on few rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from prefixkv.kernels.linear import Weight
from prefixkv.kernels.triton.row_linear import FEW_OUTPUTS, own_weight

Tiles = tuple[int, int, int, int]
"""Outputs and inputs in a tile, warps, and tiles that are on their way at the same time."""
MOST_ROWS = 64
"""More rows are bound by computing, which cuBLAS does better."""


@triton.jit
def _product(sums, x, w_ptr, outputs, columns, count, inputs, EVEN: tl.constexpr):
    mask = outputs[:, None] < count
    if not EVEN:
        mask = mask & (columns[None, :] < inputs)
    w = tl.load(
        w_ptr + outputs[:, None].to(tl.int64) * inputs + columns[None, :], mask, 0.0, eviction_policy="evict_first"
    )
    return tl.dot(w, x, sums, input_precision="ieee")


@triton.jit
def _rows_linear_kernel(
    x_ptr, w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, residual_ptr, out_ptr,
    n0, n1, n2, inputs, rows, x_row, residual_row, out_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, WEIGHTS: tl.constexpr, BIAS: tl.constexpr,
    SWIGLU: tl.constexpr, RESIDUAL: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    w_ptr, b_ptr, count, done, block = own_weight(
        w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, n0, n1, n2, N, WEIGHTS
    )
    outputs, members = block * N + tl.arange(0, N), tl.arange(0, M)
    is_row = members < rows
    sums = tl.zeros([N, M], tl.float32)
    more = tl.zeros([N, M], tl.float32)
    for start in tl.range(0, inputs, K, num_stages=STAGES):
        columns = start + tl.arange(0, K)
        inside = is_row[None, :] & (columns < inputs)[:, None]
        x = tl.load(x_ptr + members[None, :] * x_row + columns[:, None], inside, 0.0)
        sums = _product(sums, x, w_ptr, outputs, columns, count, inputs, EVEN)
        if SWIGLU:
            more = _product(more, x, w1_ptr, outputs, columns, count, inputs, EVEN)
    dtype = out_ptr.dtype.element_ty
    stored = (outputs < count)[:, None] & is_row[None, :]
    if BIAS:
        sums += tl.load(b_ptr + outputs, outputs < count, 0.0).to(tl.float32)[:, None]
    if SWIGLU:
        gate = sums.to(dtype).to(tl.float32)
        sums = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * more.to(dtype).to(tl.float32)
    if RESIDUAL:
        place = members[None, :] * residual_row + outputs[:, None]
        sums = sums.to(dtype).to(tl.float32) + tl.load(residual_ptr + place, stored, 0.0).to(tl.float32)
    tl.store(out_ptr + members[None, :] * out_row + (done + outputs)[:, None], sums.to(dtype), stored)


def rows_linear(
    hidden: torch.Tensor,
    weights: Sequence[Weight],
    *,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """A few rows through up to three linear layers.

    Args:
        hidden: (rows, inputs), at most `MOST_ROWS`; the numbers of a row lie side by side.
        weights: with the same inputs; all with a bias or none.
        swiglu: combine two weights, gate and up, to one result.
        residual: (rows, outputs) to be added to the result of one weight.
        tiles: chosen where None.

    Returns:
        (rows, outputs of all weights, one behind the other).
    """
    rows, inputs = hidden.shape
    counts = [weight.shape[0] for weight, _ in weights]
    members = max(8, triton.next_power_of_2(rows))
    n, k, warps, stages = tiles or _tiles(members, sum(counts), swiglu)
    width = counts[0] if swiglu else sum(counts)
    out = torch.empty(rows, width, dtype=hidden.dtype, device=hidden.device)
    separate = 1 if swiglu else len(weights)
    padded = [*weights, *[weights[0]] * (3 - len(weights))]
    biases = [hidden if bias is None else bias for _, bias in padded]
    counts += [0] * (3 - len(counts))
    blocks = sum(triton.cdiv(count, n) for count in counts[:separate])
    residual_row = 0 if residual is None else residual.stride(0)
    _rows_linear_kernel[(blocks,)](
        hidden, *(weight for weight, _ in padded), *biases, hidden if residual is None else residual, out,
        *counts, inputs, rows, hidden.stride(0), residual_row, out.stride(0),
        M=members, N=n, K=k, WEIGHTS=separate, BIAS=weights[0][1] is not None,
        SWIGLU=swiglu, RESIDUAL=residual is not None, EVEN=inputs % k == 0, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return out


def _tiles(members: int, outputs: int, swiglu: bool) -> Tiles:
    """What was fastest on an H100 among tiles that fit 99 KiB of shared memory, which every supported GPU has."""
    if members > 16:
        return (32, 128, 2, 3) if swiglu else (64, 128, 4, 3)
    if swiglu:
        return 32, 128, 2, 3
    return (16, 256, 2, 4) if outputs <= FEW_OUTPUTS else (32, 128, 2, 4)
