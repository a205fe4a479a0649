"""What a cache holds at one moment: plain numbers for tables and JSON. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefixkv.html_table import html_table
from prefixkv.policy.budget import format_bytes


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
        codec: in which the entries are stored now: `plain`, `int8`, `int4` or `int2`; of rows that differ, all of these
            with commas between.
        layers: one per layer.
    """

    full_bytes: int
    kept_bytes: int
    allocated_bytes: int
    keep_fraction: float
    codec: str
    layers: tuple[LayerUsage, ...]

    @classmethod
    def of(cls, layers: tuple[LayerUsage, ...], entry_bytes: int, allocated_bytes: int, codec: str) -> CacheUsage:
        """Sum the layers up.

        Args:
            layers: in order.
            entry_bytes: of an uncompressed entry.
            allocated_bytes: of all buffers.
            codec: in which the entries are stored.
        """
        full, kept = sum(layer.seen_tokens for layer in layers) * entry_bytes, sum(layer.bytes for layer in layers)
        return cls(full, kept, allocated_bytes, kept / full if full else 1.0, codec, layers)

    @classmethod
    def together(cls, rows: Sequence[CacheUsage]) -> CacheUsage:
        """What several rows of one model hold together; a layer's numbers are sums over the rows."""
        layers = tuple(
            LayerUsage(
                parts[0].layer,
                sum(part.seen_tokens for part in parts),
                sum(part.kept_tokens for part in parts),
                sum(part.bytes for part in parts),
            )
            for parts in zip(*(row.layers for row in rows), strict=True)
        )
        full, kept = sum(row.full_bytes for row in rows), sum(row.kept_bytes for row in rows)
        allocated, codecs = sum(row.allocated_bytes for row in rows), dict.fromkeys(row.codec for row in rows)
        return cls(full, kept, allocated, kept / full if full else 1.0, ",".join(codecs), layers)

    def _repr_html_(self) -> str:
        """A notebook's table: a row for each layer."""
        rows = [
            [
                str(layer.layer),
                f"{layer.kept_tokens:,}",
                f"{layer.seen_tokens:,}",
                f"{layer.kept_tokens / layer.seen_tokens if layer.seen_tokens else 1.0:.0%}",
                format_bytes(layer.bytes),
            ]
            for layer in self.layers
        ]
        share = f"{self.keep_fraction:.1%}, {self.codec}"
        kept = f"{format_bytes(self.kept_bytes)} of {format_bytes(self.full_bytes)} kept ({share})"
        return html_table(kept, ("layer", "tokens kept", "tokens read", "kept of read", "bytes"), rows)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}
