"""Rows of bytes from rotated vectors, in registers; `prefixkv.kernels.packing` is the specification."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def packed_rows(x, ROWS: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr):
    """Round vectors to few bits.

    Args:
        x: (ROWS, D), float32, rotated.
        ROWS: a power of two.
        D: a power of two.
        BITS: 8, 4 or 2.
        STEP: of `NORMAL_STEPS`, in standard deviations; any with 8 bits.

    Returns:
        Codes, (ROWS, D * BITS // 8), uint8, and steps, (ROWS,), float32.
    """
    HALF: tl.constexpr = 2 ** (BITS - 1)
    step = tl.max(tl.abs(x), axis=1) / (HALF - 0.5) if BITS == 8 else tl.sqrt(tl.sum(x * x, axis=1) / D) * STEP
    step = tl.maximum(step, 2.0**-20)
    levels = tl.minimum(tl.maximum(tl.floor(x / step[:, None]), -HALF), HALF - 1)
    codes = (levels + HALF).to(tl.int32)
    if BITS == 8:
        return codes.to(tl.uint8), step
    else:
        middles = levels + 0.5
        step = tl.sum(middles * x, axis=1) / tl.sum(middles * middles, axis=1)
        PARTS: tl.constexpr = 8 // BITS
        shifted = tl.reshape(codes, [ROWS, PARTS, D // PARTS]) << (tl.arange(0, PARTS) * BITS)[None, :, None]
        return tl.sum(shifted, axis=1).to(tl.uint8), step


@triton.jit
def store_packed_rows(rows, codes, step, inside, D: tl.constexpr, BITS: tl.constexpr):
    """Write rows of bytes.

    Args:
        rows: (ROWS,), pointers to uint8, at even addresses: where each row begins.
        codes: of `packed_rows`.
        step: of `packed_rows`.
        inside: (ROWS,), which rows are written.
        D: elements of a vector.
        BITS: of an element.
    """
    columns = tl.arange(0, D * BITS // 8)
    tl.store(rows[:, None] + columns[None, :], codes, inside[:, None] & (columns >= 0)[None, :])
    tl.store((rows + D * BITS // 8).to(tl.pointer_type(tl.float16)), step.to(tl.float16), inside)
