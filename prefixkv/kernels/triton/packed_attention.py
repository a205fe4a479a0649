"""Decode attention over packed entries in Triton, without unpacking them in memory.

Entries are stored rotated by a Hadamard matrix, and a rotation changes no dot product. So the query is rotated once,
the codes are multiplied as they are, a vector's step scales its score or its weight, and the mixed value is rotated
back. The matrix has only +1 and -1 here, which are exact in every dtype; its norm is a factor. Halves of a vector are
apart, because a byte of 4-bit codes holds an element of each.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from prefixkv.kernels.entry_table import EntryTable
from prefixkv.kernels.packing import NORMAL_STEP, hadamard, packed_size
from prefixkv.kernels.triton.column_attention import LOG2_E
from prefixkv.kernels.triton.decode_attention import rotated_head, splits_for

SMALLEST_HEAD = 32
"""Smallest head whose halves the matrix units take; a power of two it must be."""


@triton.jit
def codes(x_low, x_high, BITS: tl.constexpr, STEP: tl.constexpr, D: tl.constexpr):
    """Codes of the halves of rows, and each row's step."""
    HALF: tl.constexpr = 2 ** (BITS - 1)
    if BITS == 8:
        top = tl.maximum(tl.max(tl.abs(x_low), axis=1), tl.max(tl.abs(x_high), axis=1))
        step = top / (HALF - 0.5)
    else:
        step = tl.sqrt((tl.sum(x_low * x_low, axis=1) + tl.sum(x_high * x_high, axis=1)) / D) * STEP
    step = tl.maximum(step, 2.0**-20)
    low = tl.minimum(tl.maximum(tl.floor(x_low / step[:, None]), -HALF), HALF - 1)
    high = tl.minimum(tl.maximum(tl.floor(x_high / step[:, None]), -HALF), HALF - 1)
    if BITS == 4:
        middle_low, middle_high = low + 0.5, high + 0.5
        fitted = tl.sum(middle_low * x_low, axis=1) + tl.sum(middle_high * x_high, axis=1)
        step = fitted / (tl.sum(middle_low * middle_low, axis=1) + tl.sum(middle_high * middle_high, axis=1))
    return (low + HALF).to(tl.int32), (high + HALF).to(tl.int32), step


@triton.jit
def _store_packed(row_ptr, low, high, step, columns, BITS: tl.constexpr, D: tl.constexpr):
    if BITS == 8:
        tl.store(row_ptr + columns, low.to(tl.uint8))
        tl.store(row_ptr + D // 2 + columns, high.to(tl.uint8))
    else:
        tl.store(row_ptr + columns, (low | (high << 4)).to(tl.uint8))
    tl.store((row_ptr + D * BITS // 8).to(tl.pointer_type(tl.float16)), step.to(tl.float16))


@triton.jit
def _prepare_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, signs_ptr, table_ptr, out_ptr,
    q_row, k_row, v_row, angle_row, kv_heads, norm,
    D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, BITS: tl.constexpr, STEP: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """Rotate the queries of a kv head into `out`; pack its new key and value into their slot."""
    row = tl.program_id(0)
    batch, kv_head = row // kv_heads, row % kv_heads
    dims, columns, members = tl.arange(0, D), tl.arange(0, D // 2), tl.arange(0, G)
    whole = dims >= 0
    cosine = tl.load(cos_ptr + batch * angle_row + dims).to(tl.float32)
    sine = tl.load(sin_ptr + batch * angle_row + dims).to(tl.float32)
    signs_low = tl.load(signs_ptr + dims[:, None] * D + columns[None, :])
    signs_high = tl.load(signs_ptr + dims[:, None] * D + D // 2 + columns[None, :])

    heads = kv_head * GROUP + members
    q = rotated_head(
        q_ptr + batch.to(tl.int64) * q_row, heads[:, None] * D, dims[None, :],
        (members < GROUP)[:, None] & whole[None, :], cosine[None, :], sine[None, :], D,
    )  # fmt: skip
    target = out_ptr + (row.to(tl.int64) * GROUP + members)[:, None] * D + columns[None, :]
    stored = (members < GROUP)[:, None] & (columns >= 0)[None, :]
    dtype = out_ptr.dtype.element_ty
    tl.store(target, (tl.dot(q, signs_low, input_precision="ieee") * norm).to(dtype), stored)
    tl.store(target + D // 2, (tl.dot(q, signs_high, input_precision="ieee") * norm).to(dtype), stored)

    key = rotated_head(k_ptr + batch.to(tl.int64) * k_row, kv_head * D, dims, whole, cosine, sine, D)
    value = tl.load(v_ptr + batch.to(tl.int64) * v_row + kv_head * D + dims)
    # Key and value as two rows of one operand, which has sixteen at least.
    rows = tl.arange(0, 16)
    both = tl.where((rows == 0)[:, None], key[None, :], tl.where((rows == 1)[:, None], value[None, :], 0.0)).to(
        key.dtype
    )
    low, high, step = codes(
        tl.dot(both, signs_low, input_precision="ieee") * norm,
        tl.dot(both, signs_high, input_precision="ieee") * norm,
        BITS, STEP, D,
    )  # fmt: skip
    capacity, slot = tl.load(table_ptr + 4), tl.load(table_ptr + 5)
    position, choices = tl.load(table_ptr + 7), tl.load(table_ptr + 8)
    place = ((batch.to(tl.int64) * kv_heads + kv_head) * capacity + slot) * ROW
    for which in tl.static_range(2):
        row_ptr = tl.load(table_ptr + which).to(tl.pointer_type(tl.uint8)) + place
        mine = (rows == which)[:, None]
        _store_packed(
            row_ptr, tl.sum(tl.where(mine, low, 0), axis=0), tl.sum(tl.where(mine, high, 0), axis=0),
            tl.sum(tl.where(rows == which, step, 0.0), axis=0), columns, BITS, D,
        )  # fmt: skip
    choice = (batch.to(tl.int64) * choices + kv_head) * capacity + slot
    tl.store(tl.load(table_ptr + 2).to(tl.pointer_type(tl.int64)) + choice, position, kv_head < choices)
    tl.store(tl.load(table_ptr + 3).to(tl.pointer_type(tl.float32)) + choice, 0.0, kv_head < choices)


@triton.jit
def _middles(
    base, entries, inside, columns, DTYPE: tl.constexpr, BITS: tl.constexpr, D: tl.constexpr, ROW: tl.constexpr
):
    """Halves of the entries' vectors in steps, and the steps; 0 where there is no entry."""
    MIDDLE: tl.constexpr = 2 ** (BITS - 1) - 0.5
    where = (entries * ROW)[:, None] + columns[None, :]
    mask = inside[:, None] & (columns >= 0)[None, :]
    if BITS == 8:
        low = tl.load(base + where, mask, 0).to(tl.float32)
        high = tl.load(base + D // 2 + where, mask, 0).to(tl.float32)
    else:
        code = tl.load(base + where, mask, 0)
        low, high = (code & 15).to(tl.float32), (code >> 4).to(tl.float32)
    steps = (base + D * BITS // 8).to(tl.pointer_type(tl.float16)) + entries * (ROW // 2)
    step = tl.load(steps, inside, 0.0).to(tl.float32)
    return (low - MIDDLE).to(DTYPE), (high - MIDDLE).to(DTYPE), step


@triton.jit
def _attend_packed_kernel(
    q_ptr, table_ptr, partial_ptr, lse_ptr, kv_heads, scale2,
    D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, N: tl.constexpr, SPLITS: tl.constexpr,
    DTYPE: tl.constexpr, BITS: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0), tl.program_id(1)
    columns, members = tl.arange(0, D // 2), tl.arange(0, G)
    in_group = members < GROUP
    capacity, kept = tl.load(table_ptr + 4), tl.load(table_ptr + 6)
    base = row.to(tl.int64) * capacity * ROW
    keys = tl.load(table_ptr).to(tl.pointer_type(tl.uint8)) + base
    values = tl.load(table_ptr + 1).to(tl.pointer_type(tl.uint8)) + base
    query_row = row.to(tl.int64) * GROUP + members
    mask = in_group[:, None] & (columns >= 0)[None, :]
    q_low = tl.load(q_ptr + query_row[:, None] * D + columns[None, :], mask, 0.0)
    q_high = tl.load(q_ptr + query_row[:, None] * D + D // 2 + columns[None, :], mask, 0.0)
    part = (kept + SPLITS * N - 1) // (SPLITS * N) * N
    first = split * part
    last = tl.minimum(first + part, kept)
    top = tl.full([G], float("-inf"), tl.float32)
    total = tl.zeros([G], tl.float32)
    mixed_low = tl.zeros([G, D // 2], tl.float32)
    mixed_high = tl.zeros([G, D // 2], tl.float32)
    for start in range(first, last, N):
        entries = start + tl.arange(0, N)
        inside = entries < last
        k_low, k_high, k_step = _middles(keys, entries, inside, columns, DTYPE, BITS, D, ROW)
        v_low, v_high, v_step = _middles(values, entries, inside, columns, DTYPE, BITS, D, ROW)
        scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
        scores = tl.dot(q_high, tl.trans(k_high), scores, input_precision="ieee") * (k_step * scale2)[None, :]
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        faded = tl.exp2(top - new_top)
        total = total * faded + tl.sum(weights, axis=1)
        weights = (weights * v_step[None, :]).to(DTYPE)
        mixed_low = tl.dot(weights, v_low, mixed_low * faded[:, None], input_precision="ieee")
        mixed_high = tl.dot(weights, v_high, mixed_high * faded[:, None], input_precision="ieee")
        top = new_top
    share = tl.where(total > 0, total, 1.0)[:, None]
    target = partial_ptr + (split * tl.num_programs(0) * GROUP + query_row)[:, None] * D + columns[None, :]
    tl.store(target, mixed_low / share, mask)
    tl.store(target + D // 2, mixed_high / share, mask)
    lse = tl.where(total > 0, top + tl.log2(total), float("-inf"))
    tl.store(lse_ptr + split * tl.num_programs(0) * GROUP + query_row, lse, in_group)


@triton.jit
def _restore_kernel(partial_ptr, lse_ptr, signs_ptr, out_ptr, rows, norm, D: tl.constexpr, SPLITS: tl.constexpr):
    """Join the splits of a query head and rotate the result back."""
    row = tl.program_id(0).to(tl.int64)
    splits, dims = tl.arange(0, SPLITS), tl.arange(0, D)
    lse = tl.load(lse_ptr + splits * rows + row)
    weights = tl.exp2(lse - tl.max(lse, axis=0))
    weights = weights / tl.sum(weights, axis=0)
    parts = tl.load(partial_ptr + (splits * rows + row)[:, None] * D + dims[None, :])
    joined = tl.sum(parts * weights[:, None], axis=0)
    # The matrix is symmetric: its rows are its columns.
    signs = tl.load(signs_ptr + dims[:, None] * D + dims[None, :]).to(tl.float32)
    restored = tl.sum(signs * joined[None, :], axis=1) * norm
    tl.store(out_ptr + row * D + dims, restored.to(out_ptr.dtype.element_ty))


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    scale: float,
    table: EntryTable,
    layer: int,
    bits: int,
) -> torch.Tensor:
    """As `prefixkv.kernels.decode_attention` for packed entries, for heads of 32, 64, 128, ... numbers."""
    batch, head_dim = query.shape[0], cosine.shape[-1]
    query_heads, kv_heads = query.shape[1] // head_dim, key.shape[1] // head_dim
    group, rows = query_heads // kv_heads, batch * query_heads
    splits = splits_for(batch * kv_heads)
    matrix, norm, row = signs(head_dim, query.device, query.dtype), head_dim**-0.5, packed_size(head_dim, bits)
    turned, out = (torch.empty(rows, head_dim, dtype=query.dtype, device=query.device) for _ in range(2))
    partial = torch.empty(splits, rows, head_dim, dtype=torch.float32, device=query.device)
    lse = torch.empty(splits, rows, dtype=torch.float32, device=query.device)
    members, place = max(16, triton.next_power_of_2(group)), table.rows[layer]
    _prepare_kernel[(batch * kv_heads,)](
        query, key, value, cosine, sine, matrix, place, turned,
        query.stride(0), key.stride(0), value.stride(0), cosine.stride(0), kv_heads, norm,
        D=head_dim, GROUP=group, G=members, BITS=bits, STEP=NORMAL_STEP, ROW=row, num_warps=4,
    )  # fmt: skip
    _attend_packed_kernel[(batch * kv_heads, splits)](
        turned, place, partial, lse, kv_heads, scale * LOG2_E, D=head_dim, GROUP=group, G=members, N=64, SPLITS=splits,
        DTYPE=_ELEMENTS[query.dtype], BITS=bits, ROW=row, num_warps=4,
    )  # fmt: skip
    _restore_kernel[(rows,)](partial, lse, matrix, out, rows, norm, D=head_dim, SPLITS=splits, num_warps=4)
    return out.view(batch, -1)


_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@functools.cache
def signs(head_dim: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The Hadamard matrix without its norm, (head_dim, head_dim)."""
    return hadamard(head_dim, device).sign().to(dtype)
