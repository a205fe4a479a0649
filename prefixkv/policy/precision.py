"""Precision: in how many bits a method that packs stores its entries, so that a budget holds enough of them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from prefixkv.kernels.packed_row import PRECISIONS
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import EntrySize

FINE_BITS, COARSE_BITS, FEWEST_BITS = PRECISIONS
SLIGHT_LOSS, BEARABLE_LOSS = 0.002, 0.05
"""Nats a token by which a model may diverge where its prompt is rounded, for twice the entries: always, or where they
are scarce. A few elements of great size, as Qwen2's biases make them, leave nothing of keys in 4 bits."""
ENOUGH = {FINE_BITS: 0.75, COARSE_BITS: 0.6}
"""By bits: they are used where the budget then holds at least this share of the entries, whatever fewer bits lose."""
SCARCE = 0.3
"""The same where fewer bits lose more than slightly: a model misses what is evicted beyond this more than precision."""


def packed_bits(
    geometry: KVGeometry, room_bytes: int, entries: int, before: int | None, losses: Mapping[int, float]
) -> int:
    """The bits for a budget that does not hold all entries as they are.

    Args:
        geometry: the model's KV shape.
        room_bytes: bytes that entries may take.
        entries: entries that there are.
        before: bits in which earlier entries are stored; precision never rises, since what is lost does not come back.
        losses: by bits, 4 and 2, what the model was measured to lose, in nats a token; what was not measured is not
            used.
    """
    bits = FINE_BITS
    for narrower in (COARSE_BITS, FEWEST_BITS):
        loss = losses.get(narrower, math.inf)
        share = ENOUGH[bits] if loss <= SLIGHT_LOSS else SCARCE
        # A row is whole bytes.
        is_possible = loss <= BEARABLE_LOSS and all(width * narrower % 8 == 0 for width in geometry.shape[1:])
        if not is_possible or room_bytes >= share * entries * EntrySize.of(geometry, bits).stored:
            break
        bits = narrower
    return min(bits, before or FINE_BITS)
