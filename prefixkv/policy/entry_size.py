"""What an entry takes: as shares count it, and as it is stored. The one place that knows. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.kernels.packed_row import key_bits, packed_size, value_bits
from prefixkv.models.geometry import KVGeometry

NOTE_BYTES = 12
"""A position (int64) and an importance (float32), for every head that chooses by itself."""
QUEUE_BYTES = 4
"""A slot of the eviction queue (int32)."""
MARK_BYTES, PLACE_BYTES = 1, 8
"""Of a row beside its entries: whether a token that was read is text (bool), and the next position (int64)."""


@dataclass(frozen=True)
class EntrySize:
    """Bytes of one entry: the key and the value of one token in one layer, all kv heads.

    Attributes:
        counted: of an entry as a share of the cache counts it: what is not packed counts two bytes an element, and so
            half of what it takes where the model runs in float32.
        stored: of an entry in a buffer.
        allocated: of an entry with what is noted of it: all that a limit in bytes has to hold.
    """

    counted: int
    stored: int
    allocated: int

    @classmethod
    def of(cls, geometry: KVGeometry, bits: int | None = None, choosing_heads: int = 1) -> EntrySize:
        """The size of an entry.

        Args:
            geometry: the model's KV shape.
            bits: in which an entry is stored, one of `PAIRS`; None for the model's own precision.
            choosing_heads: kv heads that choose their entries by themselves; 1 where all share a choice.
        """
        notes = NOTE_BYTES * choosing_heads + QUEUE_BYTES
        if bits is None:
            return cls(geometry.counted_bytes, geometry.entry_bytes, geometry.entry_bytes + notes)
        # Codes and the step of every vector; there is nothing else.
        shape = geometry.shape
        key, value = packed_size(shape.key_dim, key_bits(bits)), packed_size(shape.value_dim, value_bits(bits))
        packed = shape.kv_heads * (key + value)
        return cls(packed, packed, packed + notes)
