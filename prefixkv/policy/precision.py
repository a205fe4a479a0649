"""Precision: in how many bits a method that packs stores its entries, so that a budget holds enough of them."""

from __future__ import annotations

from prefixkv.kernels.packing import packed_size
from prefixkv.models.geometry import KVGeometry

FINE_BITS, COARSE_BITS = 8, 4
FINE_SHARE = 0.75
"""Entries are packed in 8 bits where the budget then holds at least this share of them, else in 4."""


def entry_bytes(geometry: KVGeometry, bits: int | None) -> int:
    """Bytes of one token's key and value in one layer.

    Args:
        geometry: the model's KV shape.
        bits: in which an element is stored; None for the model's own precision.
    """
    if bits is None:
        return geometry.entry_bytes
    return 2 * geometry.kv_heads * packed_size(geometry.head_dim, bits)


def packed_bits(geometry: KVGeometry, fitting: int, entries: int, before: int | None) -> int:
    """The bits for a budget that does not hold all entries as they are.

    Args:
        geometry: the model's KV shape.
        fitting: entries that the budget holds in the model's own precision.
        entries: entries that there are.
        before: bits in which earlier entries are stored; precision never rises, since what is lost does not come back.
    """
    fine = fitting * entry_bytes(geometry, None) >= FINE_SHARE * entries * entry_bytes(geometry, FINE_BITS)
    return FINE_BITS if fine and before != COARSE_BITS else COARSE_BITS
