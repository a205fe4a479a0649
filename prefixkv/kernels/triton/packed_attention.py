"""Decode attention over packed entries in Triton, without unpacking them in memory.

Entries are stored rotated by a Hadamard matrix, and a rotation changes no dot product. So the query is rotated once,
the codes are multiplied as they are, a vector's step scales its score or its weight, and the mixed value is rotated
back. The matrix has only +1 and -1 here, which are exact in every dtype; its norm is a factor. What lies between the
two rotations is in `prefixkv.kernels.triton.packed_splits`.
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
from prefixkv.kernels.triton.packed_splits import attend_packed_kernel

SMALLEST_HEAD = 32
"""Smallest head whose halves the matrix units take; a power of two it must be."""
PACKED_PROGRAMS = 2112
"""Sixteen programs of one warp for each multiprocessor of an H100."""


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
def _prepare_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, signs_ptr, table_ptr, out_ptr,
    q_row, k_row, v_row, angle_row, kv_heads, rows, norm,
    D: tl.constexpr, GROUP: tl.constexpr, LINES: tl.constexpr, M: tl.constexpr,
    BITS: tl.constexpr, STEP: tl.constexpr, ROW: tl.constexpr,
):  # fmt: skip
    """Rotate the queries of several kv heads into `out`; pack their new keys and values into their slots.

    A head has `LINES` rows of one matrix: its queries, its key, its value.
    """
    lines, dims, columns = tl.arange(0, M), tl.arange(0, D), tl.arange(0, D // 2)
    row, line = tl.program_id(0) * (M // LINES) + lines // LINES, lines % LINES
    batch, kv_head = (row // kv_heads).to(tl.int64), row % kv_heads
    is_query = (row < rows) & (line < GROUP)
    is_key, is_value = (row < rows) & (line == GROUP), (row < rows) & (line == GROUP + 1)
    is_new = is_key | is_value
    queries = q_ptr + batch * q_row + (kv_head * GROUP + line) * D
    keys, values = k_ptr + batch * k_row + kv_head * D, v_ptr + batch * v_row + kv_head * D
    angles = batch[:, None] * angle_row + dims[None, :]
    # A value turns by no angle.
    cosine = tl.load(cos_ptr + angles, (is_query | is_key)[:, None], 1.0).to(tl.float32)
    sine = tl.load(sin_ptr + angles, (is_query | is_key)[:, None], 0.0).to(tl.float32)
    x = rotated_head(
        tl.where(is_query, queries, tl.where(is_key, keys, values))[:, None], 0, dims[None, :],
        (is_query | is_new)[:, None], cosine, sine, D,
    )  # fmt: skip
    # One half after the other, because both at once are much for shared memory.
    half = signs_ptr + dims[:, None] * D + columns[None, :]
    low = tl.dot(x, tl.load(half), input_precision="ieee") * norm
    high = tl.dot(x, tl.load(half + D // 2), input_precision="ieee") * norm

    dtype = out_ptr.dtype.element_ty
    whole = (columns >= 0)[None, :]
    target = out_ptr + (row.to(tl.int64) * GROUP + line)[:, None] * D + columns[None, :]
    tl.store(target, low.to(dtype), is_query[:, None] & whole)
    tl.store(target + D // 2, high.to(dtype), is_query[:, None] & whole)

    low, high, step = codes(low, high, BITS, STEP, D)
    capacity, slot = tl.load(table_ptr + 4), tl.load(table_ptr + 5)
    place = (row * capacity + slot) * ROW
    entry = tl.where(is_key, tl.load(table_ptr), tl.load(table_ptr + 1)).to(tl.pointer_type(tl.uint8)) + place
    target = entry[:, None] + columns[None, :]
    if BITS == 8:
        tl.store(target, low.to(tl.uint8), is_new[:, None] & whole)
        tl.store(target + D // 2, high.to(tl.uint8), is_new[:, None] & whole)
    else:
        tl.store(target, (low | (high << 4)).to(tl.uint8), is_new[:, None] & whole)
    tl.store((entry + D * BITS // 8).to(tl.pointer_type(tl.float16)), step.to(tl.float16), is_new)

    position, choices = tl.load(table_ptr + 7), tl.load(table_ptr + 8)
    choice = (batch * choices + kv_head) * capacity + slot
    chooses = is_key & (kv_head < choices)
    tl.store(tl.load(table_ptr + 2).to(tl.pointer_type(tl.int64)) + choice, position, chooses)
    tl.store(tl.load(table_ptr + 3).to(tl.pointer_type(tl.float32)) + choice, 0.0, chooses)


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
    group, kv_rows, rows = query_heads // kv_heads, batch * kv_heads, batch * query_heads
    matrix, norm, row = signs(head_dim, query.device, query.dtype), head_dim**-0.5, packed_size(head_dim, bits)
    words, element, place = head_dim * bits // 16, _ELEMENTS[query.dtype], table.rows[layer]
    turned, out = (torch.empty(rows, head_dim, dtype=query.dtype, device=query.device) for _ in range(2))
    lines = triton.next_power_of_2(group + 2)
    together = max(16, lines)
    # Products are rounded before they are added, which a fused multiplication would not do.
    _prepare_kernel[(triton.cdiv(kv_rows * lines, together),)](
        query, key, value, cosine, sine, matrix, place, turned,
        query.stride(0), key.stride(0), value.stride(0), cosine.stride(0), kv_heads, kv_rows, norm,
        D=head_dim, GROUP=group, LINES=lines, M=together, BITS=bits, STEP=NORMAL_STEP, ROW=row, num_warps=4,
        enable_fp_fusion=False,
    )  # fmt: skip
    members = max(8, triton.next_power_of_2(group))
    entries, warps, registers = _tiles(words, members, query.dtype)
    splits = splits_for(kv_rows, PACKED_PROGRAMS // warps)
    partial = torch.empty(splits, rows, head_dim, dtype=torch.float32, device=query.device)
    lse = torch.empty(splits, rows, dtype=torch.float32, device=query.device)
    attend_packed_kernel[(splits, kv_rows)](
        turned, place, partial, lse, scale * LOG2_E,
        D=head_dim, GROUP=group, G=members, N=entries, W=max(16, words), DTYPE=element,
        BITS=bits, ASSEMBLY=_has_assembly(), num_warps=warps, maxnreg=registers,
    )  # fmt: skip
    _restore_kernel[(rows,)](partial, lse, matrix, out, rows, norm, D=head_dim, SPLITS=splits, num_warps=4)
    return out.view(batch, -1)


_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def _tiles(words: int, members: int, dtype: torch.dtype) -> tuple[int, int, int | None]:
    """Entries in a block, warps, and the most registers of a thread, where fewer of them let more programs run."""
    if dtype == torch.float32:
        return 32 if words <= 32 else 16, 4, None
    if words <= 32 and members == 8:
        return 32, 1, 128
    return (16, 1, None) if words <= 64 and members <= 16 else (32, 4, None)


def _has_assembly() -> bool:
    """Whether kernels are compiled for Nvidia's devices, and not interpreted."""
    return isinstance(attend_packed_kernel, triton.JITFunction) and torch.version.hip is None


@functools.cache
def signs(head_dim: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The Hadamard matrix without its norm, (head_dim, head_dim)."""
    return hadamard(head_dim, device).sign().to(dtype)
