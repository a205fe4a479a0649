"""The splits' parts of each query head, joined; in rows that are packed, the result is rotated back."""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels.entry_table import WHOLE_BITS
from prefixkv.kernels.triton.hadamard import hadamard_rows
from prefixkv.kernels.triton.table_columns import ACTIVE, BITS_COLUMN, FINE_TOKENS

_WHOLE_BITS = tl.constexpr(WHOLE_BITS)


@triton.jit
def join_kernel(
    partial_ptr, lse_ptr, cells_ptr, out_ptr, cell_row, query_heads,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, FIRST: tl.constexpr,
    FINE: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """`PACKED`: some rows may be packed, of which `HEAD_DIM` is a power of two.

    The first splits are every row's; `FINE` further ones are those of rows with a fine run.
    """
    head = tl.program_id(0).to(tl.int64)
    cell = cells_ptr + head // query_heads * cell_row
    splits, dims = tl.arange(0, SPLITS), tl.arange(0, D)
    in_head = dims < HEAD_DIM
    target = out_ptr + head * HEAD_DIM + dims
    if tl.load(cell + ACTIVE) == 0:
        tl.store(target, tl.zeros([D], out_ptr.dtype.element_ty), in_head)
        return
    is_there = splits < FIRST
    if FINE:
        is_there = is_there | ((splits < FIRST + FINE) & (tl.load(cell + FINE_TOKENS) > 0))
    lse = tl.load(lse_ptr + splits * tl.num_programs(0) + head, is_there, float("-inf"))
    where = (splits * tl.num_programs(0) + head)[:, None] * HEAD_DIM + dims[None, :]
    parts = tl.load(partial_ptr + where, (lse > float("-inf"))[:, None] & in_head[None, :], 0.0)
    weights = tl.exp2(lse - tl.max(lse, axis=0))
    weights = weights / tl.sum(weights, axis=0)
    joined = tl.sum(parts * weights[:, None], axis=0)
    if PACKED:
        if tl.load(cell + BITS_COLUMN) != _WHOLE_BITS:
            joined = tl.reshape(hadamard_rows(joined[None, :], 1, D), [D])
    tl.store(target, joined.to(out_ptr.dtype.element_ty), in_head)
