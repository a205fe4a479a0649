"""What the attention kernels do with the token that is read: its rotation, and what is noted of its entry."""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels.triton.table_columns import CAPACITY, CHOICES, IMPORTANCE, POSITIONS, SEEN_TOKENS, SLOT


@triton.jit
def load_angles(cos_ptr, sin_ptr, start, dims, in_head, ROTATES: tl.constexpr):
    """Cosine and sine of a row's position, float32; those of no angle where nothing is rotated."""
    if ROTATES:
        cosine = tl.load(cos_ptr + start + dims, in_head, 0.0).to(tl.float32)
        sine = tl.load(sin_ptr + start + dims, in_head, 0.0).to(tl.float32)
    else:
        cosine, sine = tl.where(dims >= 0, 1.0, 0.0), tl.where(dims >= 0, 0.0, 1.0)
    return cosine, sine


@triton.jit
def load_head(base, dims, in_head, cosine, sine, HEAD_DIM: tl.constexpr, ROTATES: tl.constexpr):
    """A head's numbers after RoPE, rounded where transformers rounds them.

    Args:
        base: where the head begins; all arguments broadcast.
        dims: of the numbers.
        in_head: which of them there are.
        cosine: float32.
        sine: float32.
        HEAD_DIM: numbers of the head.
        ROTATES: whether they are to be rotated.
    """
    x = tl.load(base + dims, in_head, 0.0)
    if ROTATES:
        half: tl.constexpr = HEAD_DIM // 2
        partner = tl.where(dims < half, dims + half, dims - half)
        sign = tl.where(dims < half, -1.0, 1.0)
        y = tl.load(base + partner, in_head, 0.0)
        direct = (x.to(tl.float32) * cosine).to(x.dtype).to(tl.float32)
        turned = (y.to(tl.float32) * sign * sine).to(x.dtype).to(tl.float32)
        x = (direct + turned).to(x.dtype)
    return x


@triton.jit
def note_entry(cell, kv_head, is_own):
    """Write the new entry's position and its importance of 0, where the head chooses its own entries.

    Args:
        cell: of the entry table.
        kv_head: that the program works for.
        is_own: whether it is the program that writes.
    """
    capacity, slot, choices = tl.load(cell + CAPACITY), tl.load(cell + SLOT), tl.load(cell + CHOICES)
    place, chooses = kv_head * capacity + slot, is_own & (kv_head < choices)
    positions = tl.load(cell + POSITIONS).to(tl.pointer_type(tl.int64))
    tl.store(positions + place, tl.load(cell + SEEN_TOKENS) - 1, chooses)
    tl.store(tl.load(cell + IMPORTANCE).to(tl.pointer_type(tl.float32)) + place, 0.0, chooses)


@triton.jit
def logits(products, scale2, cap2, CAPPED: tl.constexpr):
    """Logits in units of log2(e): the products scaled and, if asked for, squeezed into (-cap2, cap2) by tanh."""
    scaled = products * scale2
    if CAPPED:
        # The argument of exp is not positive, so nothing overflows.
        shrunk = tl.exp(-2 * tl.abs(scaled / cap2))
        bounded = cap2 * (1 - shrunk) / (1 + shrunk)
        scaled = tl.where(scaled < 0, -bounded, bounded)
    return scaled
