"""Where the next token's entry goes, in every layer of every row: the eviction while decoding, in plain torch."""

from __future__ import annotations

from prefixkv.kernels.entry_table import COLUMNS, RELEASE, SHARE, EntryTable


def next_slots(table: EntryTable) -> None:
    """Count one more token as read, in place: its slot is free, or that of the entry which is evicted for it.

    A layer below its limit takes the slot behind its entries; one that has reached it, or whose buffer is full, the
    oldest of `order`. The slot is then the newest of `order`.

    Args:
        table: `slot`, `kept_tokens`, `seen_tokens`, `head` and `count` are changed, and the rings; idle rows are not.
            A cell at its limit must have a slot in its ring.
    """
    for layer, rows in enumerate(table.entries):
        for row, entries in enumerate(rows):
            if entries is None:
                continue
            cell = table.cell(layer, row)
            if cell["kept_tokens"] < min(_allowed(cell), cell["capacity"]):
                cell["slot"] = cell["kept_tokens"]
                cell["kept_tokens"] += 1
            else:
                cell["slot"] = int(entries.order[cell["head"]])
                cell["head"] = (cell["head"] + 1) % cell["order_size"]
                cell["count"] -= 1
            entries.order[(cell["head"] + cell["count"]) % cell["order_size"]] = cell["slot"]
            cell["count"] += 1
            cell["seen_tokens"] += 1
            table.cells[layer, row] = table.cells.new_tensor([cell[column] for column in COLUMNS])


def _allowed(cell: dict[str, int]) -> int:
    """Entries that the layer may hold with the next token; see `LayerEntries.limit`."""
    kept, seen, limit = cell["kept_tokens"], cell["seen_tokens"], cell["limit"]
    anchor_kept, anchor_seen, beside = cell["anchor_kept"], cell["anchor_seen"], cell["beside"]
    if limit == SHARE:
        return anchor_kept + (seen + 1 - anchor_seen) * (anchor_kept + beside) // anchor_seen
    if limit == RELEASE:
        return kept + int((kept + beside) * anchor_seen - seen * anchor_kept < anchor_seen)
    return limit
