"""What a cache holds at one moment: plain numbers for tables and JSON. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerUsage:
    """One layer.

    Attributes:
        layer: its number.
        seen_tokens: tokens read.
        kept_tokens: entries stored.
        bytes: bytes of the stored entries.
    """

    layer: int
    seen_tokens: int
    kept_tokens: int
    bytes: int


@dataclass(frozen=True)
class CacheUsage:
    """All layers.

    Attributes:
        full_bytes: what the uncompressed cache of the same tokens would take.
        kept_bytes: bytes of all stored entries.
        allocated_bytes: bytes of all buffers that exist.
        keep_fraction: kept_bytes / full_bytes; 1 for an empty cache.
        layers: one per layer.
    """

    full_bytes: int
    kept_bytes: int
    allocated_bytes: int
    keep_fraction: float
    layers: tuple[LayerUsage, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}
