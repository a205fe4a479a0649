"""Products with the Hadamard matrix in Triton: butterflies in registers, so that no matrix is read."""

from __future__ import annotations

import triton
import triton.language as tl

SMALLEST_HEAD = 32
"""Smallest head that the kernels rotate; a power of two it must be."""


@triton.jit
def _butterfly(x, ROWS: tl.constexpr, D: tl.constexpr, APART: tl.constexpr):
    """Sum and difference of each two numbers of a row that lie `APART` apart, in their places."""
    pairs = tl.reshape(x, [ROWS * D // (2 * APART), 2, APART])
    # The other of a pair to the bit: a sum of integers loses nothing, and it is one exchange between threads.
    bits = pairs.to(tl.int32, bitcast=True)
    others = (tl.sum(bits, axis=1, keep_dims=True) - bits).to(tl.float32, bitcast=True)
    is_second = (tl.arange(0, 2) == 1)[None, :, None]
    return tl.reshape(tl.where(is_second, others - pairs, pairs + others), [ROWS, D])


@triton.jit
def hadamard_rows(x, ROWS: tl.constexpr, D: tl.constexpr):
    """Multiply rows by the symmetric, orthogonal matrix of `prefixkv.kernels.packing.hadamard`.

    Args:
        x: (ROWS, D), float32.
        ROWS: a power of two.
        D: a power of two, up to 512.

    Returns:
        (ROWS, D), float32.
    """
    x = _butterfly(x, ROWS, D, 1)
    for stage in tl.static_range(1, 9):
        if (1 << stage) < D:
            x = _butterfly(x, ROWS, D, 1 << stage)
    NORM: tl.constexpr = D**-0.5
    return x * NORM
