"""Attention to entries in the model's precision: the new one, from registers, and a part of the stored ones."""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels.entry_table import WHOLE_BITS
from prefixkv.kernels.triton.new_token import load_angles, load_head, logits, note_entry
from prefixkv.kernels.triton.table_columns import ACTIVE, BITS_COLUMN, CAPACITY, KEPT_TOKENS, KEYS, SLOT, VALUES

_WHOLE_BITS = tl.constexpr(WHOLE_BITS)


@triton.jit
def attend_whole_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, cells_ptr, out_ptr, lse_ptr,
    q_row, k_row, v_row, angle_row, cell_row, kv_heads, scale2, cap2,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, N: tl.constexpr,
    DTYPE: tl.constexpr, ROTATES: tl.constexpr, CAPPED: tl.constexpr, ALONE: tl.constexpr, LEAST: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Blocks of `N` entries are dealt to the splits in turn, to as many as have `LEAST` blocks each.

    `ALONE`: there is one split and one precision, so `out` is the result; else it is the splits' parts, float32, and
    `lse` their weights, -inf for a split without entries.
    """
    split, head_row = tl.program_id(0), tl.program_id(1)
    row, kv_head = (head_row // kv_heads).to(tl.int64), head_row % kv_heads
    dims, members = tl.arange(0, D), tl.arange(0, G)
    in_head, in_group = dims < HEAD_DIM, members < GROUP
    mask = in_group[:, None] & in_head[None, :]
    cell = cells_ptr + row * cell_row
    is_here = (tl.load(cell + ACTIVE) != 0) & (tl.load(cell + BITS_COLUMN) == _WHOLE_BITS)
    place = split * tl.num_programs(1) * GROUP + head_row * GROUP + members
    target = out_ptr + place.to(tl.int64)[:, None] * HEAD_DIM + dims[None, :]
    kept = tl.load(cell + KEPT_TOKENS).to(tl.int32)
    splits = tl.minimum(tl.num_programs(0), (kept + N * LEAST - 1) // (N * LEAST))
    if (not is_here) | (split >= splits):
        if ALONE:
            tl.store(target, tl.zeros([G, D], DTYPE), mask)
        elif is_here:
            tl.store(lse_ptr + place, tl.full([G], float("-inf"), tl.float32), in_group)
        return

    capacity, slot = tl.load(cell + CAPACITY), tl.load(cell + SLOT).to(tl.int32)
    base = kv_head * capacity * HEAD_DIM
    keys = tl.load(cell + KEYS).to(tl.pointer_type(DTYPE)) + base
    values = tl.load(cell + VALUES).to(tl.pointer_type(DTYPE)) + base
    cosine, sine = load_angles(cos_ptr, sin_ptr, row * angle_row, dims, in_head, ROTATES)
    queries = q_ptr + row * q_row + (kv_head * GROUP + members) * HEAD_DIM
    q = load_head(queries[:, None], dims[None, :], mask, cosine[None, :], sine[None, :], HEAD_DIM, ROTATES)
    own_key = load_head(k_ptr + row * k_row + kv_head * HEAD_DIM, dims, in_head, cosine, sine, HEAD_DIM, ROTATES)
    own_value = tl.load(v_ptr + row * v_row + kv_head * HEAD_DIM + dims, in_head, 0.0)

    # One split takes in the new entry, from registers; nobody reads its slot.
    is_own = slot // N % splits == split
    tl.store(keys + slot.to(tl.int64) * HEAD_DIM + dims, own_key, in_head & is_own)
    tl.store(values + slot.to(tl.int64) * HEAD_DIM + dims, own_value, in_head & is_own)
    note_entry(cell, kv_head, is_own)
    own_product = tl.sum(q.to(tl.float32) * own_key.to(tl.float32)[None, :], axis=1)
    top = tl.where(is_own, logits(own_product, scale2, cap2, CAPPED), float("-inf"))
    total = tl.where(is_own, 1.0, 0.0) + tl.zeros([G], tl.float32)
    mixed = tl.where(is_own, own_value.to(tl.float32), 0.0)[None, :] + tl.zeros([G, D], tl.float32)
    for start in tl.range(split * N, kept, splits * N, num_stages=STAGES):
        entries = start + tl.arange(0, N)
        here = (entries < kept) & (entries != slot)
        where = (entries.to(tl.int64) * HEAD_DIM)[:, None] + dims[None, :]
        k = tl.load(tl.multiple_of(keys, 16) + where, (entries < kept)[:, None] & in_head[None, :], 0.0)
        v = tl.load(tl.multiple_of(values, 16) + where, here[:, None] & in_head[None, :], 0.0)
        products = tl.trans(tl.dot(k, tl.trans(q), input_precision="ieee"))
        scores = tl.where(here[None, :], logits(products, scale2, cap2, CAPPED), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        # Nothing seen so far, as where a block holds only the slot: -inf - -inf.
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe[:, None])
        faded = tl.exp2(top - safe)
        total = total * faded + tl.sum(weights, axis=1)
        mixed = tl.dot(weights.to(DTYPE), v, mixed * faded[:, None], input_precision="ieee")
        top = new_top
    result = mixed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(target, result.to(out_ptr.dtype.element_ty), mask)
    if not ALONE:
        tl.store(lse_ptr + place, tl.where(total > 0, top + tl.log2(total), float("-inf")), in_group)
