"""What a cache's layers tell the entry table before a step, and that the step was taken."""

from __future__ import annotations

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable, LayerEntries

PACKED_HEAD = 32
"""Smallest head whose packed halves the matrix units take; a power of two it must be."""


def next_entries(cache: PrefixKVCache) -> list[list[LayerEntries]]:
    """Buffers and slots for the next token, of each row and layer; room is made where a layer grows, no more changes.

    Raises:
        BudgetTooSmallError: the method keeps everything and the budget is used up.
    """
    rows: list[list[LayerEntries]] = [[] for _ in range(cache.batch)]
    for index, layer in enumerate(cache.layers):
        slot = layer.next_slot(cache.decode_limit(index), cache.budget.is_hard_limit)
        keys, values, positions, importance = layer.keys, layer.values, layer.positions, layer.importance
        assert keys is not None
        assert values is not None
        assert positions is not None
        assert importance is not None
        kept, seen, bits = max(layer.kept_tokens, slot + 1), layer.seen_tokens + 1, layer.bits or WHOLE_BITS
        # The host chooses the slots, so no ring of them is kept.
        order = torch.empty(0, dtype=torch.int32)
        for row, entries in enumerate(rows):
            key, value, position, important = (part[row : row + 1] for part in (keys, values, positions, importance))
            entries.append(LayerEntries(key, value, position, important, order, bits, slot, kept, seen))
    return rows


def write(table: EntryTable, rows: list[list[LayerEntries]]) -> None:
    """Describe the next step of all rows."""
    for row, entries in enumerate(rows):
        table.write(row, entries)


def occupy(cache: PrefixKVCache, rows: list[list[LayerEntries]]) -> None:
    """Count the token as read in every layer."""
    for layer, entry in zip(cache.layers, rows[0], strict=True):
        layer.occupy(entry.slot)
    if cache.next_positions is not None:
        cache.next_positions = cache.next_positions + 1


def obstacle(cache: PrefixKVCache) -> str | None:
    """Why a cache cannot be decoded by the captured step; None where it can."""
    if cache.windows:
        return "it has window layers"
    if cache.method.positions != "true":
        return f"method {cache.method.name!r} has positions of its own"
    if getattr(cache, "rows", ()):
        return "its rows differ in length"
    for layer in cache.layers:
        if layer.arriving is not None or layer.keys is None or layer.values is None:
            return "it has not read a prompt"
        buffers = (layer.keys, layer.values, layer.positions, layer.importance)
        if not all(buffer is not None and buffer.is_contiguous() for buffer in buffers):
            return "its buffers are not contiguous"
        if layer.bits != cache.layers[0].bits:
            return "its layers are packed in different ways"
        if layer.bits is not None and (layer.head_dim < PACKED_HEAD or layer.head_dim & (layer.head_dim - 1)):
            return f"it is packed in heads of {layer.head_dim}"
    return None
