"""Attention to packed entries as they are: rotated queries, the codes of keys and values, and their steps.

A packed row is read as words of 16 bits, which is how far it is aligned. A word's four codes are four planes, each with
its own part of the query; with 8 bits an element has two codes, which count 1 and 16. Entries are the rows of the
matrix units, so that few columns are wasted on a single query, and a program is one warp, which waits for no other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels.triton.nibbles import planes, unit


@triton.jit
def _element(words, PLANE: tl.constexpr, BITS: tl.constexpr, D: tl.constexpr):
    """The element of the vector that a plane has from each word."""
    if BITS == 8:
        return 2 * words + PLANE // 2
    else:
        return 2 * words + PLANE // 2 + PLANE % 2 * (D // 2)


@triton.jit
def _load(pointers, inside, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(pointers, inside, 0)
    else:
        return tl.load(pointers)


@triton.jit
def _prefetch(base, start, kept, ROW: tl.constexpr, N: tl.constexpr):
    """Have a block's rows fetched as far as the L2 cache, but for the last few bytes; nothing behind the last entry."""
    SECTORS: tl.constexpr = triton.next_power_of_2(N * ROW) // 64
    place = tl.minimum(start * ROW + tl.arange(0, SECTORS) * 32, kept * ROW - 1)
    address = base.to(tl.int64) + place
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [address], tl.int32, False, 1)


@triton.jit
def _take_in(
    keys, values, start, kept, q0, q1, q2, q3, top, total, m0, m1, m2, m3, scale2,
    N: tl.constexpr, W: tl.constexpr, WORDS: tl.constexpr, DTYPE: tl.constexpr, BITS: tl.constexpr,
    MASKED: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """One block of entries: running maximum, sums of weights by place in the block, and mixed values by plane."""
    entries, words = tl.arange(0, N), tl.arange(0, W)
    PARTLY: tl.constexpr = MASKED or W > WORDS
    inside, in_row = entries < kept - start, words < WORDS
    keys += start * (WORDS + 1)
    values += start * (WORDS + 1)
    rows = entries * (WORDS + 1)
    key_words = _load(keys + rows[:, None] + words[None, :], inside[:, None] & in_row[None, :], PARTLY)
    # Turned on their way from memory, so that what lies between load and product is done in registers.
    value_words = _load(values + rows[None, :] + words[:, None], inside[None, :] & in_row[:, None], PARTLY)
    key_step = _load(keys + rows + WORDS, inside, MASKED).to(tl.float16, bitcast=True).to(tl.float32)
    value_step = _load(values + rows + WORDS, inside, MASKED).to(tl.float16, bitcast=True).to(tl.float32)

    k0, k1, k2, k3 = planes(key_words, DTYPE, ASSEMBLY)
    if tl.float32 == DTYPE:
        # Four short sums lose less than one long one, where the numbers themselves have lost nothing.
        scores = tl.dot(k1, q1, input_precision="ieee") + tl.dot(k3, q3, input_precision="ieee")
        if BITS == 8:
            scores *= 16
        scores += tl.dot(k0, q0, input_precision="ieee") + tl.dot(k2, q2, input_precision="ieee")
    else:
        scores = tl.dot(k1, q1)
        scores = tl.dot(k3, q3, scores)
        if BITS == 8:
            scores *= 16
        scores = tl.dot(k0, q0, scores)
        scores = tl.dot(k2, q2, scores)
    scores *= (key_step * scale2)[:, None]
    if MASKED:
        scores = tl.where(inside[:, None], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=0))
    weights = tl.exp2(scores - new_top[None, :])
    faded = tl.exp2(top - new_top)[None, :]
    total = total * faded + weights
    weights = (weights * value_step[:, None]).to(DTYPE)
    v0, v1, v2, v3 = planes(value_words, DTYPE, ASSEMBLY)
    m0 = tl.dot(v0, weights, m0 * faded, input_precision="ieee")
    m1 = tl.dot(v1, weights, m1 * faded, input_precision="ieee")
    m2 = tl.dot(v2, weights, m2 * faded, input_precision="ieee")
    m3 = tl.dot(v3, weights, m3 * faded, input_precision="ieee")
    return new_top, total, m0, m1, m2, m3


@triton.jit
def attend_packed_kernel(
    q_ptr, table_ptr, partial_ptr, lse_ptr, scale2,
    D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, N: tl.constexpr, W: tl.constexpr, DTYPE: tl.constexpr,
    BITS: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Blocks are dealt to the splits in turn, so that programs that run together read what lies together."""
    split, row, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    WORDS: tl.constexpr = D * BITS // 16
    words, members = tl.arange(0, W), tl.arange(0, G)
    mask = (members < GROUP)[None, :] & (words < WORDS)[:, None]
    capacity, kept = tl.load(table_ptr + 4), tl.load(table_ptr + 6).to(tl.int32)
    base = row * capacity * (WORDS + 1)
    keys = tl.load(table_ptr).to(tl.pointer_type(tl.int16)) + base
    values = tl.load(table_ptr + 1).to(tl.pointer_type(tl.int16)) + base
    query_row = row * GROUP + members
    query = q_ptr + query_row[None, :] * D
    q0 = tl.load(query + _element(words, 0, BITS, D)[:, None], mask, 0.0)
    q1 = tl.load(query + _element(words, 1, BITS, D)[:, None], mask, 0.0)
    q2 = tl.load(query + _element(words, 2, BITS, D)[:, None], mask, 0.0)
    q3 = tl.load(query + _element(words, 3, BITS, D)[:, None], mask, 0.0)
    scale2 = scale2 / unit(DTYPE)

    top = tl.full([G], float("-inf"), tl.float32)
    total = tl.zeros([N, G], tl.float32)
    m0 = tl.zeros([W, G], tl.float32)
    m1, m2, m3 = m0, m0, m0
    whole = kept // N * N
    for start in tl.range(split * N, whole, splits * N, num_stages=1):
        if ASSEMBLY:
            _prefetch(keys, start + splits * N, kept, 2 * WORDS + 2, N)
            _prefetch(values, start + splits * N, kept, 2 * WORDS + 2, N)
        top, total, m0, m1, m2, m3 = _take_in(
            keys, values, start, kept, q0, q1, q2, q3, top, total, m0, m1, m2, m3, scale2,
            N, W, WORDS, DTYPE, BITS, False, ASSEMBLY,
        )  # fmt: skip
    if (whole < kept) & (whole // N % splits == split):
        top, total, m0, m1, m2, m3 = _take_in(
            keys, values, whole, kept, q0, q1, q2, q3, top, total, m0, m1, m2, m3, scale2,
            N, W, WORDS, DTYPE, BITS, True, ASSEMBLY,
        )  # fmt: skip

    summed = tl.sum(total, axis=0)
    place = split * tl.num_programs(1) * GROUP + query_row
    lse = tl.where(summed > 0, top + tl.log2(summed), float("-inf"))
    tl.store(lse_ptr + place, lse, members < GROUP)
    share = (1 / (tl.where(summed > 0, summed, 1.0) * unit(DTYPE)))[None, :]
    target = partial_ptr + place.to(tl.int64)[None, :] * D
    if BITS == 8:
        tl.store(target + _element(words, 0, BITS, D)[:, None], (m0 + 16 * m1) * share, mask)
        tl.store(target + _element(words, 2, BITS, D)[:, None], (m2 + 16 * m3) * share, mask)
    else:
        tl.store(target + _element(words, 0, BITS, D)[:, None], m0 * share, mask)
        tl.store(target + _element(words, 1, BITS, D)[:, None], m1 * share, mask)
        tl.store(target + _element(words, 2, BITS, D)[:, None], m2 * share, mask)
        tl.store(target + _element(words, 3, BITS, D)[:, None], m3 * share, mask)
