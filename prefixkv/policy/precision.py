"""Precision: in how many bits a method that packs stores its entries, so that a budget holds enough of them."""

from __future__ import annotations

from prefixkv.kernels.packing import packed_size
from prefixkv.models.geometry import KVGeometry

FINE_BITS, COARSE_BITS, FEWEST_BITS = 8, 4, 2
FINE_SHARE = 0.75
"""Entries are packed in 8 bits where the budget then holds at least this share of them, else in 4."""
COARSE_SHARE = 0.6
"""In 2 bits, where 4 hold less than this share of them; but only those of a model that was measured to bear it."""
BEARABLE_LOSS = 0.05
"""A model bears a rounding of its prompt that makes its predictions diverge by no more nats a token."""


def entry_bytes(geometry: KVGeometry, bits: int | None) -> int:
    """Bytes of one token's key and value in one layer.

    Args:
        geometry: the model's KV shape.
        bits: in which an element is stored; None for the model's own precision.
    """
    if bits is None:
        return geometry.entry_bytes
    return 2 * geometry.kv_heads * packed_size(geometry.head_dim, bits)


def fewest_bits(rounding_loss: float | None) -> int:
    """Bits in which a model bears its entries.

    Args:
        rounding_loss: nats a token that its predictions diverge where its prompt is stored in `FEWEST_BITS`; None
            where that was not measured.
    """
    return FEWEST_BITS if rounding_loss is not None and rounding_loss <= BEARABLE_LOSS else COARSE_BITS


def packed_bits(geometry: KVGeometry, fitting: int, entries: int, before: int | None, fewest: int = COARSE_BITS) -> int:
    """The bits for a budget that does not hold all entries as they are.

    Args:
        geometry: the model's KV shape.
        fitting: entries that the budget holds in the model's own precision.
        entries: entries that there are.
        before: bits in which earlier entries are stored; precision never rises, since what is lost does not come back.
        fewest: bits that the model bears.
    """
    room, most = fitting * entry_bytes(geometry, None), before or FINE_BITS
    if most == FINE_BITS and room >= FINE_SHARE * entries * entry_bytes(geometry, FINE_BITS):
        return FINE_BITS
    # Eight halves of a byte, four quarters: a row is whole bytes.
    bears = fewest <= FEWEST_BITS and geometry.head_dim % 4 == 0
    if most <= FEWEST_BITS or (bears and room < COARSE_SHARE * entries * entry_bytes(geometry, COARSE_BITS)):
        return FEWEST_BITS
    return COARSE_BITS
