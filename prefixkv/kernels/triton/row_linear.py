"""A linear layer for one row, bound by reading its weights: every program reduces a few outputs over all inputs.

Up to three weights with the same inputs share a launch, without being copied together. The norm before costs nothing:
the sum of squares is taken along the way, and its root divides the finished sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from prefixkv.kernels.linear import Weight

Tiles = tuple[int, int, int]
"""Outputs and inputs in a tile, and warps."""
MOST_WEIGHTS = 3
"""Weights that share a launch."""
FEW_OUTPUTS = 8192
"""So few outputs are spread over more, smaller programs, which keeps all multiprocessors reading."""


@triton.jit
def own_weight(
    w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, n0, n1, n2, N: tl.constexpr, WEIGHTS: tl.constexpr
):  # fmt: skip
    """Which of the weights that share a launch is this program's.

    Args:
        n0: outputs of the first weight; `n1` and `n2` of the others.
        N: outputs of a program.
        WEIGHTS: how many of the three there are.

    Returns:
        The weight, its bias, its outputs, the outputs of the weights before it, and which block of its outputs.
    """
    block = tl.program_id(0)
    w_ptr, b_ptr, count, done = w0_ptr, b0_ptr, n0, n0 * 0
    if WEIGHTS > 1:
        blocks = tl.cdiv(n0, N)
        if block >= blocks:
            w_ptr, b_ptr, count, done = w1_ptr, b1_ptr, n1, n0
            block -= blocks
            blocks = tl.cdiv(n1, N)
            if block >= blocks:
                w_ptr, b_ptr, count, done = w2_ptr, b2_ptr, n2, n0 + n1
                block -= blocks
    return w_ptr, b_ptr, count, done, block


@triton.jit
def _dot(sums, x, w_ptr, outputs, columns, count, inputs, EVEN: tl.constexpr):
    mask = outputs[:, None] < count
    if not EVEN:
        mask = mask & (columns[None, :] < inputs)
    w = tl.load(
        w_ptr + outputs[:, None].to(tl.int64) * inputs + columns[None, :], mask, 0.0, eviction_policy="evict_first"
    )
    return sums + w.to(tl.float32) * x[None, :]


@triton.jit
def _row_linear_kernel(
    x_ptr, gain_ptr, w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, residual_ptr, out_ptr,
    n0, n1, n2, inputs, epsilon,
    N: tl.constexpr, K: tl.constexpr, WEIGHTS: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    SWIGLU: tl.constexpr, RESIDUAL: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    w_ptr, b_ptr, count, done, block = own_weight(
        w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, n0, n1, n2, N, WEIGHTS
    )
    outputs = block * N + tl.arange(0, N)
    sums = tl.zeros([N, K], tl.float32)
    more = tl.zeros([N, K], tl.float32)
    squares = tl.zeros([K], tl.float32)
    for start in range(0, inputs, K):
        columns = start + tl.arange(0, K)
        inside = columns < inputs
        x = tl.load(x_ptr + columns, inside, 0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x = x * tl.load(gain_ptr + columns, inside, 0.0).to(tl.float32)
        sums = _dot(sums, x, w_ptr, outputs, columns, count, inputs, EVEN)
        if SWIGLU:
            more = _dot(more, x, w1_ptr, outputs, columns, count, inputs, EVEN)
    scale = 1.0
    if NORM:
        scale = tl.rsqrt(tl.sum(squares, axis=0) / inputs + epsilon)
    dtype = out_ptr.dtype.element_ty
    result = tl.sum(sums, axis=1) * scale
    stored = outputs < count
    if BIAS:
        result += tl.load(b_ptr + outputs, stored, 0.0).to(tl.float32)
    if SWIGLU:
        gate = result.to(dtype).to(tl.float32)
        up = (tl.sum(more, axis=1) * scale).to(dtype).to(tl.float32)
        result = (gate * tl.sigmoid(gate)).to(dtype).to(tl.float32) * up
    if RESIDUAL:
        result = result.to(dtype).to(tl.float32) + tl.load(residual_ptr + outputs, stored, 0.0).to(tl.float32)
    tl.store(out_ptr + done + outputs, result.to(dtype), stored)


def row_linear(
    hidden: torch.Tensor,
    weights: Sequence[Weight],
    *,
    norm: tuple[torch.Tensor, float] | None = None,
    swiglu: bool = False,
    residual: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """One row through up to three linear layers.

    Args:
        hidden: (1, inputs).
        weights: with the same inputs; all with a bias or none.
        norm: gain and epsilon of an RMSNorm before.
        swiglu: combine two weights, gate and up, to one result.
        residual: (1, outputs) to be added to the result of one weight.
        tiles: chosen where None.

    Returns:
        (1, outputs of all weights, one behind the other).
    """
    inputs = hidden.shape[1]
    counts = [weight.shape[0] for weight, _ in weights]
    n, k, warps = tiles or ((2, 1024, 2) if sum(counts) <= FEW_OUTPUTS else (8, 512, 4))
    width = counts[0] if swiglu else sum(counts)
    out = torch.empty(1, width, dtype=hidden.dtype, device=hidden.device)
    separate = 1 if swiglu else len(weights)
    padded = [*weights, *[weights[0]] * (3 - len(weights))]
    biases = [hidden if bias is None else bias for _, bias in padded]
    counts += [0] * (3 - len(counts))
    blocks = sum(triton.cdiv(count, n) for count in counts[:separate])
    gain, epsilon = norm or (hidden, 0.0)
    _row_linear_kernel[(blocks,)](
        hidden, gain, *(weight for weight, _ in padded), *biases, hidden if residual is None else residual, out,
        *counts, inputs, epsilon, N=n, K=k, WEIGHTS=separate, NORM=norm is not None, BIAS=weights[0][1] is not None,
        SWIGLU=swiglu, RESIDUAL=residual is not None, EVEN=inputs % k == 0, num_warps=warps,
    )  # fmt: skip
    return out
