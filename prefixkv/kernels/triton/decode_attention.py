"""Decode attention in Triton; `prefixkv.kernels.decode_attention` is its specification.

The stored entries are split between programs, so that one row fills the GPU too; a second small kernel joins the parts.
Buffers are found through the table, so that the launch is the same whatever turn, length or buffer it is for.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from prefixkv.kernels.entry_table import COLUMNS, EntryTable
from prefixkv.kernels.triton.column_attention import LOG2_E

PROGRAMS = 528
"""Four for each multiprocessor of an H100: fewer splits than that leave it idle, more only have to be joined."""
MAX_SPLITS = 64


@triton.jit
def rotated_head(base, head_row, dims, in_head, cosine, sine, HEAD_DIM: tl.constexpr):
    """A head's numbers after RoPE, rounded where transformers rounds them."""
    half: tl.constexpr = HEAD_DIM // 2
    partner = tl.where(dims < half, dims + half, dims - half)
    sign = tl.where(dims < half, -1.0, 1.0)
    x = tl.load(base + head_row + dims, in_head, 0.0)
    y = tl.load(base + head_row + partner, in_head, 0.0)
    direct = (x.to(tl.float32) * cosine).to(x.dtype).to(tl.float32)
    turned = (y.to(tl.float32) * sign * sine).to(x.dtype).to(tl.float32)
    return (direct + turned).to(x.dtype)


@triton.jit
def _attend_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, table_ptr, out_ptr, partial_ptr, lse_ptr,
    q_row, k_row, v_row, angle_row, kv_heads, scale2,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, G: tl.constexpr, N: tl.constexpr,
    SPLITS: tl.constexpr, DTYPE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0), tl.program_id(1)
    batch, kv_head = row // kv_heads, row % kv_heads
    dims, members = tl.arange(0, D), tl.arange(0, G)
    in_head, in_group = dims < HEAD_DIM, members < GROUP
    capacity, slot = tl.load(table_ptr + 4), tl.load(table_ptr + 5)
    kept, position, choices = tl.load(table_ptr + 6), tl.load(table_ptr + 7), tl.load(table_ptr + 8)
    element = tl.pointer_type(DTYPE)
    base = (batch.to(tl.int64) * kv_heads + kv_head) * capacity * HEAD_DIM
    keys = tl.load(table_ptr).to(element) + base
    values = tl.load(table_ptr + 1).to(element) + base

    cosine = tl.load(cos_ptr + batch * angle_row + dims, in_head, 0.0).to(tl.float32)
    sine = tl.load(sin_ptr + batch * angle_row + dims, in_head, 0.0).to(tl.float32)
    heads = kv_head * GROUP + members
    q = rotated_head(
        q_ptr + batch.to(tl.int64) * q_row, heads[:, None] * HEAD_DIM, dims[None, :],
        in_group[:, None] & in_head[None, :], cosine[None, :], sine[None, :], HEAD_DIM,
    )  # fmt: skip
    own_key = rotated_head(
        k_ptr + batch.to(tl.int64) * k_row, kv_head * HEAD_DIM, dims, in_head, cosine, sine, HEAD_DIM
    )
    own_value = tl.load(v_ptr + batch.to(tl.int64) * v_row + kv_head * HEAD_DIM + dims, in_head, 0.0)

    part = (kept + SPLITS * N - 1) // (SPLITS * N) * N
    first = split * part
    last = tl.minimum(first + part, kept)
    # One split takes in the new entry, from registers; the others never look at its slot.
    own = (slot >= first) & (slot < last)
    tl.store(keys + slot * HEAD_DIM + dims, own_key, in_head & own)
    tl.store(values + slot * HEAD_DIM + dims, own_value, in_head & own)
    choice = (batch.to(tl.int64) * choices + kv_head) * capacity + slot
    chooses = own & (kv_head < choices)
    tl.store(tl.load(table_ptr + 2).to(tl.pointer_type(tl.int64)) + choice, position, chooses)
    tl.store(tl.load(table_ptr + 3).to(tl.pointer_type(tl.float32)) + choice, 0.0, chooses)

    own_score = tl.sum(q.to(tl.float32) * own_key.to(tl.float32)[None, :], axis=1) * scale2
    top = tl.where(own, own_score, float("-inf"))
    total = tl.where(own, 1.0, 0.0) + tl.zeros([G], tl.float32)
    mixed = tl.where(own, own_value.to(tl.float32), 0.0)[None, :] + tl.zeros([G, D], tl.float32)
    for start in tl.range(first, last, N, num_stages=STAGES):
        entries = start + tl.arange(0, N)
        here = (entries < last) & (entries != slot)
        where = (entries * HEAD_DIM)[:, None] + dims[None, :]
        k = tl.load(tl.multiple_of(keys, 16) + where, (entries < last)[:, None] & in_head[None, :], 0.0)
        v = tl.load(tl.multiple_of(values, 16) + where, here[:, None] & in_head[None, :], 0.0)
        scores = tl.trans(tl.dot(k, tl.trans(q), input_precision="ieee")) * scale2
        scores = tl.where(here[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        # Nothing seen so far, as where a block holds only the slot: -inf - -inf.
        safe = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - safe[:, None])
        faded = tl.exp2(top - safe)
        total = total * faded + tl.sum(weights, axis=1)
        mixed = tl.dot(weights.to(DTYPE), v, mixed * faded[:, None], input_precision="ieee")
        top = new_top
    result = mixed / tl.where(total > 0, total, 1.0)[:, None]
    query_row = row.to(tl.int64) * GROUP + members
    mask = in_group[:, None] & in_head[None, :]
    if SPLITS == 1:
        tl.store(out_ptr + query_row[:, None] * HEAD_DIM + dims[None, :], result.to(DTYPE), mask)
    else:
        rows = tl.num_programs(0) * GROUP
        tl.store(partial_ptr + (split * rows + query_row)[:, None] * HEAD_DIM + dims[None, :], result, mask)
        lse = tl.where(total > 0, top + tl.log2(total), float("-inf"))
        tl.store(lse_ptr + split * rows + query_row, lse, in_group)


@triton.jit
def _join_kernel(
    partial_ptr, lse_ptr, out_ptr, rows, HEAD_DIM: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    splits, dims = tl.arange(0, SPLITS), tl.arange(0, D)
    lse = tl.load(lse_ptr + splits * rows + row)
    weights = tl.exp2(lse - tl.max(lse, axis=0))
    weights = weights / tl.sum(weights, axis=0)
    where = (splits * rows + row)[:, None] * HEAD_DIM + dims[None, :]
    parts = tl.load(partial_ptr + where, (splits >= 0)[:, None] & (dims < HEAD_DIM)[None, :], 0.0)
    joined = tl.sum(parts * weights[:, None], axis=0)
    tl.store(out_ptr + row * HEAD_DIM + dims, joined.to(out_ptr.dtype.element_ty), dims < HEAD_DIM)


def decode_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    scale: float,
    table: EntryTable,
    layer: int,
    bits: int | None = None,
    tiles: tuple[int, int, int, int] | None = None,
) -> torch.Tensor:
    """As the plain twin.

    `tiles`: entries in a tile, splits, warps and stages; chosen where None.
    """
    if bits is not None:
        from prefixkv.kernels.triton.packed_attention import packed_attention

        return packed_attention(query, key, value, cosine, sine, scale, table, layer, bits)
    batch, head_dim = query.shape[0], cosine.shape[-1]
    query_heads, kv_heads = query.shape[1] // head_dim, key.shape[1] // head_dim
    group = query_heads // kv_heads
    n, splits, warps, stages = tiles or _tiles(batch * kv_heads, head_dim, query.dtype)
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    rows = batch * query_heads
    partial = lse = out
    if splits > 1:
        partial = torch.empty(splits, rows, head_dim, dtype=torch.float32, device=query.device)
        lse = torch.empty(splits, rows, dtype=torch.float32, device=query.device)
    dims = max(16, triton.next_power_of_2(head_dim))
    members = max(16, triton.next_power_of_2(group))
    _attend_kernel[(batch * kv_heads, splits)](
        query, key, value, cosine, sine, table.rows[layer], out, partial, lse,
        query.stride(0), key.stride(0), value.stride(0), cosine.stride(0), kv_heads, scale * LOG2_E,
        HEAD_DIM=head_dim, D=dims, GROUP=group, G=members, N=n, SPLITS=splits, DTYPE=_ELEMENTS[query.dtype],
        STAGES=stages, num_warps=warps,
    )  # fmt: skip
    if splits > 1:
        _join_kernel[(rows,)](partial, lse, out, rows, HEAD_DIM=head_dim, D=dims, SPLITS=splits, num_warps=2)
    return out


_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

assert COLUMNS.index("capacity") == 4, "the kernel reads the table by number"


def _tiles(rows: int, head_dim: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    return 64 if dtype != torch.float32 and head_dim <= 128 else 32, splits_for(rows, PROGRAMS), 4, 2


def splits_for(rows: int, programs: int) -> int:
    """Parts into which the entries of each of `rows` kv heads are split, a power of two; `programs` fill the GPU."""
    splits = 1
    while splits < MAX_SPLITS and rows * splits * 2 <= programs:
        splits *= 2
    return splits
