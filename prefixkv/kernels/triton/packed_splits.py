"""Attention to packed entries as they are: rotated queries, the codes of keys and values, and their steps.

Entries are stored rotated by a Hadamard matrix, and a rotation changes no dot product. So each program rotates its
queries, multiplies codes as they are, and lets a vector's step scale its score or its weight; the mixed value is
rotated back where the splits are joined.

A packed row is read as words of 16 bits, which is how far it is aligned. A word's four codes (eight, of 2 bits) are as
many planes, each with its own part of the query; with 8 bits an element has two codes, which count 1 and 16. Entries
are the rows of the matrix units, so that few columns are wasted on a single query, and a program is one warp, which
waits for no other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels.triton.hadamard import hadamard_rows
from prefixkv.kernels.triton.new_token import load_angles, load_head, logits, note_entry
from prefixkv.kernels.triton.nibbles import plane, unit
from prefixkv.kernels.triton.packed_rows import packed_rows, store_packed_rows
from prefixkv.kernels.triton.table_columns import (
    ACTIVE,
    BITS_COLUMN,
    CAPACITY,
    FINE_BITS,
    FINE_KEYS,
    FINE_TOKENS,
    FINE_VALUES,
    KEPT_TOKENS,
    KEYS,
    SLOT,
    VALUES,
)


@triton.jit
def _element(words, PLANE: tl.constexpr, BITS: tl.constexpr, D: tl.constexpr):
    """The element of the vector that a plane has from each word."""
    if BITS == 8:
        return 2 * words + PLANE // 2
    else:
        IN_BYTE: tl.constexpr = 8 // BITS
        return 2 * words + PLANE // IN_BYTE + PLANE % IN_BYTE * (D // IN_BYTE)


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
def _store_new_entry(
    k_ptr, v_ptr, keys, values, cosine, sine, D: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr,
    KEY_STEP: tl.constexpr, VALUE_STEP: tl.constexpr, ROTATES: tl.constexpr,
):  # fmt: skip
    """Pack the new key and value of a head into their rows, at `keys` and `values`."""
    dims, is_key = tl.arange(0, D)[None, :], tl.arange(0, 2) == 0
    whole, both = dims >= 0, tl.arange(0, 2) >= 0
    source = tl.where(is_key, k_ptr, v_ptr)[:, None]
    # A value turns by no angle.
    cosine = tl.where(is_key[:, None], cosine[None, :], 1.0)
    sine = tl.where(is_key[:, None], sine[None, :], 0.0)
    new = hadamard_rows(load_head(source, dims, whole, cosine, sine, D, ROTATES).to(tl.float32), 2, D)
    rows = tl.where(is_key, keys.to(tl.pointer_type(tl.uint8)), values.to(tl.pointer_type(tl.uint8)))
    codes, step = packed_rows(new, 2, D, KEY_BITS, KEY_STEP)
    if KEY_BITS == VALUE_BITS:
        store_packed_rows(rows, codes, step, both, D, KEY_BITS)
    else:
        store_packed_rows(rows, codes, step, is_key, D, KEY_BITS)
        codes, step = packed_rows(new, 2, D, VALUE_BITS, VALUE_STEP)
        store_packed_rows(rows, codes, step, both & (is_key == 0), D, VALUE_BITS)


@triton.jit
def _scores(words, queries, BITS: tl.constexpr, DTYPE: tl.constexpr, ASSEMBLY: tl.constexpr):
    """Products of the codes of keys with the queries' planes, (entries, members), float32."""
    PLANES: tl.constexpr = 8 if BITS == 2 else 4
    CODE_BITS: tl.constexpr = 2 if BITS == 2 else 4
    scores = tl.dot(plane(words, 1, DTYPE, CODE_BITS, ASSEMBLY), queries[1], input_precision="ieee")
    for number in tl.static_range(3, PLANES, 2):
        scores = _plus_product(scores, plane(words, number, DTYPE, CODE_BITS, ASSEMBLY), queries[number], DTYPE)
    if BITS == 8:
        scores *= 16
    for number in tl.static_range(0, PLANES, 2):
        scores = _plus_product(scores, plane(words, number, DTYPE, CODE_BITS, ASSEMBLY), queries[number], DTYPE)
    return scores


@triton.jit
def _plus_product(scores, codes, query, DTYPE: tl.constexpr):
    if tl.float32 == DTYPE:
        # Short sums lose less than one long one, where the numbers themselves have lost nothing.
        return scores + tl.dot(codes, query, input_precision="ieee")
    else:
        return tl.dot(codes, query, scores)


@triton.jit
def _take_in(
    keys, values, start, kept, queries, top, total, mixed, scale2, cap2,
    N: tl.constexpr, D: tl.constexpr, DTYPE: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr,
    CAPPED: tl.constexpr, MASKED: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """One block of entries: running maximum, sums of weights by place in the block, and mixed values by plane."""
    KEY_WORDS: tl.constexpr = D * KEY_BITS // 16
    VALUE_WORDS: tl.constexpr = D * VALUE_BITS // 16
    # The matrix units take 16 at least.
    KEY_PLACES: tl.constexpr = KEY_WORDS if KEY_WORDS > 16 else 16
    VALUE_PLACES: tl.constexpr = VALUE_WORDS if VALUE_WORDS > 16 else 16
    entries, inside = tl.arange(0, N), tl.arange(0, N) < kept - start
    keys += start * (KEY_WORDS + 1)
    values += start * (VALUE_WORDS + 1)
    key_rows, value_rows = entries * (KEY_WORDS + 1), entries * (VALUE_WORDS + 1)
    words = tl.arange(0, KEY_PLACES)
    in_row = inside[:, None] & (words < KEY_WORDS)[None, :]
    key_words = _load(keys + key_rows[:, None] + words[None, :], in_row, MASKED or KEY_PLACES > KEY_WORDS)
    # Turned on their way from memory, so that what lies between load and product is done in registers.
    words = tl.arange(0, VALUE_PLACES)
    in_row = inside[None, :] & (words < VALUE_WORDS)[:, None]
    value_words = _load(values + value_rows[None, :] + words[:, None], in_row, MASKED or VALUE_PLACES > VALUE_WORDS)
    key_step = _load(keys + key_rows + KEY_WORDS, inside, MASKED).to(tl.float16, bitcast=True).to(tl.float32)
    value_step = _load(values + value_rows + VALUE_WORDS, inside, MASKED).to(tl.float16, bitcast=True).to(tl.float32)

    products = _scores(key_words, queries, KEY_BITS, DTYPE, ASSEMBLY)
    scores = logits(products, (key_step * scale2)[:, None], cap2, CAPPED)
    if MASKED:
        scores = tl.where(inside[:, None], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=0))
    weights = tl.exp2(scores - new_top[None, :])
    faded = tl.exp2(top - new_top)[None, :]
    total = total * faded + weights
    weights = (weights * value_step[:, None]).to(DTYPE)
    sums = tl.tuple([])
    for number in tl.static_range(8 if VALUE_BITS == 2 else 4):
        codes = plane(value_words, number, DTYPE, 2 if VALUE_BITS == 2 else 4, ASSEMBLY)
        sums += (tl.dot(codes, weights, mixed[number] * faded, input_precision="ieee"),)
    return new_top, total, sums


@triton.jit
def attend_packed_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, cells_ptr, partial_ptr, lse_ptr,
    q_row, k_row, v_row, angle_row, cell_row, kv_heads, scale2, cap2,
    D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr,
    BITS: tl.constexpr, KEY_BITS: tl.constexpr, VALUE_BITS: tl.constexpr, KEY_STEP: tl.constexpr,
    VALUE_STEP: tl.constexpr, ROTATES: tl.constexpr, CAPPED: tl.constexpr, LEAST: tl.constexpr,
    FIRST: tl.constexpr, FINE: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Blocks of `N` entries are dealt to the splits in turn, to as many as have `LEAST` blocks each.

    So programs that run together read what lies together. `FINE`: the entries are those of fine runs, which are only
    read; their splits begin at `FIRST`.
    """
    split, head_row = tl.program_id(0), tl.program_id(1)
    row, kv_head = (head_row // kv_heads).to(tl.int64), head_row % kv_heads
    cell = cells_ptr + row * cell_row
    if (tl.load(cell + ACTIVE) == 0) | (tl.load(cell + (FINE_BITS if FINE else BITS_COLUMN)) != BITS):
        return
    members, kept = tl.arange(0, G), tl.load(cell + (FINE_TOKENS if FINE else KEPT_TOKENS)).to(tl.int32)
    in_group = members < GROUP
    place = (FIRST + split) * tl.num_programs(1) * GROUP + head_row * GROUP + members
    splits = tl.minimum(tl.num_programs(0), (kept + N * LEAST - 1) // (N * LEAST))
    if split >= splits:
        tl.store(lse_ptr + place, tl.full([G], float("-inf"), tl.float32), in_group)
        return

    KEY_WORDS: tl.constexpr = D * KEY_BITS // 16
    VALUE_WORDS: tl.constexpr = D * VALUE_BITS // 16
    # The matrix units take 16 at least.
    KEY_PLACES: tl.constexpr = KEY_WORDS if KEY_WORDS > 16 else 16
    VALUE_PLACES: tl.constexpr = VALUE_WORDS if VALUE_WORDS > 16 else 16
    dims = tl.arange(0, D)
    capacity = tl.load(cell + (FINE_TOKENS if FINE else CAPACITY))
    keys = tl.load(cell + (FINE_KEYS if FINE else KEYS)).to(tl.pointer_type(tl.int16))
    values = tl.load(cell + (FINE_VALUES if FINE else VALUES)).to(tl.pointer_type(tl.int16))
    keys += kv_head * capacity * (KEY_WORDS + 1)
    values += kv_head * capacity * (VALUE_WORDS + 1)
    cosine, sine = load_angles(cos_ptr, sin_ptr, row * angle_row, dims, dims >= 0, ROTATES)
    whole_heads = in_group[:, None] & (dims >= 0)[None, :]
    q = load_head(
        (q_ptr + row * q_row + (kv_head * GROUP + members) * D)[:, None], dims[None, :], whole_heads,
        cosine[None, :], sine[None, :], D, ROTATES,
    )  # fmt: skip
    # The program's part of the result is where the queries change from rows to planes.
    target = partial_ptr + place.to(tl.int64) * D
    tl.store(target[:, None] + dims[None, :], hadamard_rows(q.to(tl.float32), G, D), whole_heads)
    if not FINE:
        slot = tl.load(cell + SLOT)
        is_own = slot // N % splits == split
        if is_own:
            _store_new_entry(
                k_ptr + row * k_row + kv_head * D, v_ptr + row * v_row + kv_head * D,
                keys + slot * (KEY_WORDS + 1), values + slot * (VALUE_WORDS + 1), cosine, sine,
                D, KEY_BITS, VALUE_BITS, KEY_STEP, VALUE_STEP, ROTATES,
            )  # fmt: skip
        note_entry(cell, kv_head, is_own)
    # What was written is read again, by other threads.
    tl.debug_barrier()
    words = tl.arange(0, KEY_PLACES)
    mask = in_group[None, :] & (words < KEY_WORDS)[:, None]
    queries = tl.tuple([])
    for number in tl.static_range(8 if KEY_BITS == 2 else 4):
        q = tl.load(target[None, :] + _element(words, number, KEY_BITS, D)[:, None], mask, 0.0)
        queries += (q.to(DTYPE),)
    tl.debug_barrier()
    scale2 = scale2 / unit(DTYPE)

    top = tl.full([G], float("-inf"), tl.float32)
    total = tl.zeros([N, G], tl.float32)
    mixed = (tl.zeros([VALUE_PLACES, G], tl.float32),) * (8 if VALUE_BITS == 2 else 4)
    whole = kept // N * N
    for start in tl.range(split * N, whole, splits * N, num_stages=1):
        if ASSEMBLY:
            _prefetch(keys, start + splits * N, kept, 2 * KEY_WORDS + 2, N)
            _prefetch(values, start + splits * N, kept, 2 * VALUE_WORDS + 2, N)
        top, total, mixed = _take_in(
            keys, values, start, kept, queries, top, total, mixed, scale2, cap2,
            N, D, DTYPE, KEY_BITS, VALUE_BITS, CAPPED, False, ASSEMBLY,
        )  # fmt: skip
    if (whole < kept) & (whole // N % splits == split):
        top, total, mixed = _take_in(
            keys, values, whole, kept, queries, top, total, mixed, scale2, cap2,
            N, D, DTYPE, KEY_BITS, VALUE_BITS, CAPPED, True, ASSEMBLY,
        )  # fmt: skip

    summed = tl.sum(total, axis=0)
    tl.store(lse_ptr + place, top + tl.log2(summed), in_group)
    share = (1 / (summed * unit(DTYPE)))[None, :]
    words = tl.arange(0, VALUE_PLACES)
    mask = in_group[None, :] & (words < VALUE_WORDS)[:, None]
    if VALUE_BITS == 8:
        tl.store(target[None, :] + _element(words, 0, 8, D)[:, None], (mixed[0] + 16 * mixed[1]) * share, mask)
        tl.store(target[None, :] + _element(words, 2, 8, D)[:, None], (mixed[2] + 16 * mixed[3]) * share, mask)
    else:
        for number in tl.static_range(8 if VALUE_BITS == 2 else 4):
            tl.store(target[None, :] + _element(words, number, VALUE_BITS, D)[:, None], mixed[number] * share, mask)
