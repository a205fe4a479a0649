"""Precision: in how many bits a method that packs stores its entries, so that a budget holds enough of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prefixkv.kernels.packing import packed_size
from prefixkv.models.geometry import KVGeometry

FINE_BITS, COARSE_BITS, FEWEST_BITS = 8, 4, 2
FINE_SHARE = 0.75
"""Entries are packed in 8 bits where the budget then holds at least this share of them, else in as many fewer as the
model was measured to bear: a few keys of great size, as Qwen2's biases make them, leave nothing of it in 4."""
COARSE_SHARE = 0.6
"""In 2 bits only where 4 hold less than this share of them."""
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


def fewest_bits(losses: Mapping[int, float]) -> int:
    """Bits in which a model bears its entries; 8, which every model bears, where nothing was measured.

    Args:
        losses: for 4 and 2 bits the nats a token that its predictions diverge where its prompt is stored in them.
    """
    fewest = FINE_BITS
    for bits in (COARSE_BITS, FEWEST_BITS):
        if losses.get(bits, math.inf) > BEARABLE_LOSS:
            break
        fewest = bits
    return fewest


def packed_bits(geometry: KVGeometry, fitting: int, entries: int, before: int | None, fewest: int = FINE_BITS) -> int:
    """The bits for a budget that does not hold all entries as they are.

    Args:
        geometry: the model's KV shape.
        fitting: entries that the budget holds in the model's own precision.
        entries: entries that there are.
        before: bits in which earlier entries are stored; precision never rises, since what is lost does not come back.
        fewest: bits that the model bears.
    """
    room, most = fitting * entry_bytes(geometry, None), before or FINE_BITS
    fits = room >= FINE_SHARE * entries * entry_bytes(geometry, FINE_BITS)
    if most == FINE_BITS and (fits or fewest == FINE_BITS):
        return FINE_BITS
    # Eight halves of a byte, four quarters: a row is whole bytes.
    bears = fewest <= FEWEST_BITS and geometry.head_dim % 4 == 0
    if most <= FEWEST_BITS or (bears and room < COARSE_SHARE * entries * entry_bytes(geometry, COARSE_BITS)):
        return FEWEST_BITS
    return COARSE_BITS
