"""What an entry takes: as shares count it, and as it is stored. The one place that knows. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass

from prefixkv.kernels.packed_row import packed_size
from prefixkv.models.geometry import KVGeometry


@dataclass(frozen=True)
class EntrySize:
    """Bytes of one entry: the key and the value of one token in one layer, all kv heads.

    Attributes:
        counted: of an entry as a share of the cache counts it: what is not packed counts two bytes an element, and so
            half of what it takes where the model runs in float32.
        stored: of an entry in a buffer.
    """

    counted: int
    stored: int

    @classmethod
    def of(cls, geometry: KVGeometry, bits: int | None = None) -> EntrySize:
        """The size of an entry.

        Args:
            geometry: the model's KV shape.
            bits: in which an element is stored; None for the model's own precision.
        """
        if bits is None:
            return cls(geometry.counted_bytes, geometry.entry_bytes)
        # Codes and the step of every vector; there is nothing else.
        packed = 2 * geometry.kv_heads * packed_size(geometry.head_dim, bits)
        return cls(packed, packed)
