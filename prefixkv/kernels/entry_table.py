"""Where the entries of all layers and rows lie and where the next ones go, as one small tensor on the device.

A captured step must not change, but rows come and go, and their buffers are made anew with every turn and grow while
decoding. So the step reads addresses and lengths from this table and counts in it (`prefixkv.kernels.next_slots`); the
host writes a row's cells when the row comes, when its buffers are others, and when it goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

COLUMNS = (
    "keys",
    "values",
    "positions",
    "importance",
    "order",
    "capacity",
    "order_size",
    "bits",
    "choices",
    "slot",
    "kept_tokens",
    "seen_tokens",
    "anchor_seen",
    "anchor_kept",
    "limit",
    "head",
    "count",
    "fine_keys",
    "fine_values",
    "fine_tokens",
    "fine_bits",
    "beside",
    "active",
)
"""Of a cell, which is one row in one layer: addresses of the five buffers; entries and slots that they can hold; bits
of an element; heads that choose their own entries (1 where all kv heads share a choice); then what `LayerEntries` says
of the same names, addresses of the fine run among them, 0 where there is none; 1 where there is such a row, 0 where it
is idle."""
WHOLE_BITS = 16
"""Stands for the model's own precision, whatever it is."""
FINE = 128
"""Added to the bits of a fine run, where the formats of a table are listed."""
SHARE, RELEASE = -1, -2
"""Limits that rise with the text; see `LayerEntries.limit`."""


@dataclass(frozen=True)
class LayerEntries:
    """One row's entries in one layer: its buffers, and how far it has come when this is written to the table.

    Attributes:
        keys: (1, kv_heads, capacity, head_dim), contiguous; packed rows (`prefixkv.kernels.packing`), uint8.
        values: same shape and dtype; packed, a row's bytes may be others.
        positions: (1, choices, capacity), int64, contiguous.
        importance: (1, choices, capacity), float32, contiguous.
        order: (order_size,), int32, a ring of the slots that may be evicted; order_size >= capacity.
        bits: in which an entry is stored, one of `prefixkv.kernels.packed_row.PAIRS`, or `WHOLE_BITS`.
        slot: of the newest token's entry.
        kept_tokens: entries in use, the first so many of the buffers.
        seen_tokens: tokens read, kept or not.
        anchor_seen: tokens read when the layer was last compacted.
        anchor_kept: entries stored then.
        limit: entries that the layer may hold. `SHARE`: as many of the tokens read since the anchor as of those
            before it, rounded down. `RELEASE`: one more than now as long as it is less than one entry above
            `seen_tokens * anchor_kept / anchor_seen`, else as many as now; the two need not be of an anchor then, but
            may be any share, such as one of 2 ** 32.
        head: place in `order` of the slot that is evicted first.
        count: slots in `order`, from `head` on and around its end.
        fine_keys: (1, kv_heads, fine_tokens, bytes), contiguous, packed: further entries, which are only read; None
            where there are none.
        fine_values: same shape.
        fine_tokens: how many.
        fine_bits: in which they are stored.
        beside: as how many entries of the buffer they count where a limit rises with the text.
    """

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    importance: torch.Tensor
    order: torch.Tensor
    bits: int = WHOLE_BITS
    slot: int = 0
    kept_tokens: int = 0
    seen_tokens: int = 0
    anchor_seen: int = 1
    anchor_kept: int = 1
    limit: int = SHARE
    head: int = 0
    count: int = 0
    fine_keys: torch.Tensor | None = None
    fine_values: torch.Tensor | None = None
    fine_tokens: int = 0
    fine_bits: int = 0
    beside: int = 0

    @classmethod
    def zeros(cls, keys: torch.Tensor, values: torch.Tensor, bits: int = WHOLE_BITS) -> LayerEntries:
        """Entries that stand for those of a row while a step is tried: all are read, and none matters.

        Args:
            keys: (1, kv_heads, entries, head_dim) of zeros; packed ones where `bits` says so.
            values: same shape, in memory of their own; packed, a row's bytes may be others.
            bits: in which an entry is stored.
        """
        count, device = keys.shape[2], keys.device
        positions = torch.zeros(1, 1, count, dtype=torch.int64, device=device)
        order = torch.zeros(count, dtype=torch.int32, device=device)
        buffers = (keys, values, positions, positions.float(), order)
        return cls(*buffers, bits, kept_tokens=count, seen_tokens=count, count=count)

    @property
    def cell(self) -> tuple[int, ...]:
        """The table's numbers, in the order of `COLUMNS`."""
        buffers = (self.keys, self.values, self.positions, self.importance, self.order)
        sizes = (self.keys.shape[2], self.order.shape[0], self.bits, self.positions.shape[1])
        anchor = (self.anchor_seen, self.anchor_kept, self.limit)
        addresses = (buffer.data_ptr() for buffer in buffers)
        counts = (self.slot, self.kept_tokens, self.seen_tokens)
        fine = (0 if part is None else part.data_ptr() for part in (self.fine_keys, self.fine_values))
        beside = (*fine, self.fine_tokens, self.fine_bits, self.beside)
        return (*addresses, *sizes, *counts, *anchor, self.head, self.count, *beside, 1)


class EntryTable:
    """The table; it keeps its address.

    Attributes:
        cells: (layers, rows, columns), int64, on the device; `cells[layer]` may lie with gaps between its rows.
        entries: by layer and row, the buffers behind the addresses, for the plain kernels; None where a row is idle.
            On a GPU all are None: a table outlives the rows that it describes and must not keep their buffers.
    """

    def __init__(self, layers: int, rows: int, device: torch.device) -> None:
        """Make a table whose rows are all idle."""
        # A row's cells lie together, so that one copy brings them.
        self.cells = torch.zeros(rows, layers, len(COLUMNS), dtype=torch.int64, device=device).transpose(0, 1)
        self.entries: list[list[LayerEntries | None]] = [[None] * rows for _ in range(layers)]

    @property
    def rows(self) -> int:
        """Rows that there is room for."""
        return self.cells.shape[1]

    def write(self, row: int, layers: Sequence[LayerEntries]) -> None:
        """Describe a row; on a GPU the copy is queued behind the steps that are queued, and the host does not wait.

        Args:
            row: which one.
            layers: one for each layer; their buffers must live until the row is cleared or written again.
        """
        cells = torch.tensor([layer.cell for layer in layers], dtype=torch.int64)
        if self.cells.is_cuda:
            # Pinned memory from torch's pool, which does not give it out again before it is read.
            self.cells[:, row].copy_(cells.pin_memory(), non_blocking=True)
            return
        self.cells[:, row] = cells
        for layer, entries in zip(self.entries, layers, strict=True):
            layer[row] = entries

    def copy(self, other: EntryTable) -> None:
        """Have the rows of another table, as many as fit; those that it has not are idle. The host does not wait."""
        self.clear()
        rows = min(self.rows, other.rows)
        self.cells[:, :rows] = other.cells[:, :rows]
        for own, theirs in zip(self.entries, other.entries, strict=True):
            own[:rows] = theirs[:rows]

    def clear(self, row: int | None = None) -> None:
        """Make a row idle; all where None."""
        if row is None:
            self.cells.zero_()
        else:
            self.cells[:, row] = 0
        for layer in self.entries:
            layer[:] = [None if row in (None, place) else entries for place, entries in enumerate(layer)]

    def cell(self, layer: int, row: int) -> dict[str, int]:
        """A cell's numbers by column; on a GPU this waits."""
        return dict(zip(COLUMNS, self.cells[layer, row].tolist(), strict=True))
