"""The next slots of all layers and rows in one launch; `prefixkv.kernels.next_slots` is the specification."""

from __future__ import annotations

import triton
import triton.language as tl

from prefixkv.kernels import entry_table
from prefixkv.kernels.entry_table import EntryTable
from prefixkv.kernels.triton.table_columns import (
    ACTIVE,
    ANCHOR_KEPT,
    ANCHOR_SEEN,
    BESIDE,
    CAPACITY,
    COUNT,
    HEAD,
    KEPT_TOKENS,
    LIMIT,
    ORDER,
    ORDER_SIZE,
    SEEN_TOKENS,
    SLOT,
)

BLOCK = 32
"""Cells of one program, which is one warp."""
SHARE, RELEASE = tl.constexpr(entry_table.SHARE), tl.constexpr(entry_table.RELEASE)


@triton.jit
def _next_slots_kernel(cells_ptr, cells, COLUMNS: tl.constexpr, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    cell = cells_ptr + at * COLUMNS
    active = tl.load(cell + ACTIVE, at < cells, 0) != 0
    kept, seen = tl.load(cell + KEPT_TOKENS, active, 0), tl.load(cell + SEEN_TOKENS, active, 0)
    anchor_kept, anchor_seen = tl.load(cell + ANCHOR_KEPT, active, 0), tl.load(cell + ANCHOR_SEEN, active, 1)
    limit, capacity = tl.load(cell + LIMIT, active, 0), tl.load(cell + CAPACITY, active, 0)
    beside = tl.load(cell + BESIDE, active, 0)
    share = anchor_kept + (seen + 1 - anchor_seen) * (anchor_kept + beside) // anchor_seen
    released = kept + ((kept + beside) * anchor_seen - seen * anchor_kept < anchor_seen).to(tl.int64)
    allowed = tl.where(limit == SHARE, share, tl.where(limit == RELEASE, released, limit))
    grows = kept < tl.minimum(allowed, capacity)

    head, count = tl.load(cell + HEAD, active, 0), tl.load(cell + COUNT, active, 0)
    size = tl.load(cell + ORDER_SIZE, active, 1)
    order = tl.load(cell + ORDER, active, 0).to(tl.pointer_type(tl.int32))
    slot = tl.where(grows, kept, tl.load(order + head, active, 0).to(tl.int64))
    tl.store(order + (head + count) % size, slot.to(tl.int32), active)
    tl.store(cell + SLOT, slot, active)
    tl.store(cell + KEPT_TOKENS, tl.where(grows, kept + 1, kept), active)
    tl.store(cell + SEEN_TOKENS, seen + 1, active)
    tl.store(cell + HEAD, tl.where(grows, head, (head + 1) % size), active)
    tl.store(cell + COUNT, tl.where(grows, count + 1, count), active)


def next_slots(table: EntryTable) -> None:
    """As the plain twin."""
    layers, rows, columns = table.cells.shape
    _next_slots_kernel[(triton.cdiv(layers * rows, BLOCK),)](
        table.cells, layers * rows, COLUMNS=columns, N=BLOCK, num_warps=1
    )
