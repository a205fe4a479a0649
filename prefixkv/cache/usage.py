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
        bytes: of the stored entries, as a 16-bit cache's are counted.
        fine_tokens: of the entries those that are stored in more bits than the others; 0 where all are alike.
    """

    layer: int
    seen_tokens: int
    kept_tokens: int
    bytes: int
    fine_tokens: int = 0


@dataclass(frozen=True)
class CacheUsage:
    """All layers.

    Attributes:
        full_bytes: what a 16-bit cache of the same tokens takes with nothing evicted or packed.
        kept_bytes: of all stored entries; those that are not packed count two bytes an element, as in `full_bytes`,
            whatever the model runs in.
        allocated_bytes: of all tensors that exist: buffers, positions, importance, queues, and layers that attend to a
            window.
        kept_tokens_fraction: entries stored of those read; 1 for an empty cache.
        bytes_fraction: kept_bytes / full_bytes; 1 for an empty cache.
        bits: of an element as it is counted, 16 where it is not packed; of rows that differ, the mean over the entries.
        codec: in which the entries are stored now: `plain`, `int8`, `int4`, `int2` or `mixed`; of rows that differ, all
            of these with commas between.
        layers: one per compressed layer.
        left_bytes: of layers that are left alone: windows and states; no share counts them.
    """

    full_bytes: int
    kept_bytes: int
    allocated_bytes: int
    kept_tokens_fraction: float
    bytes_fraction: float
    bits: float
    codec: str
    layers: tuple[LayerUsage, ...]
    left_bytes: int = 0

    @classmethod
    def of(
        cls,
        layers: tuple[LayerUsage, ...],
        full_bytes: int,
        allocated_bytes: int,
        bits: float,
        codec: str,
        left_bytes: int = 0,
    ) -> CacheUsage:
        """Sum the layers up.

        Args:
            layers: in order.
            full_bytes: of a 16-bit cache of the same tokens.
            allocated_bytes: of all tensors that exist.
            bits: of an element of the entries.
            codec: in which they are stored.
            left_bytes: of layers that are left alone.
        """
        seen, kept = (sum(getattr(layer, name) for layer in layers) for name in ("seen_tokens", "kept_tokens"))
        kept_bytes = sum(layer.bytes for layer in layers)
        shares = kept / seen if seen else 1.0, kept_bytes / full_bytes if full_bytes else 1.0
        return cls(full_bytes, kept_bytes, allocated_bytes, *shares, bits, codec, layers, left_bytes)

    @classmethod
    def together(cls, rows: Sequence[CacheUsage]) -> CacheUsage:
        """What several rows of one model hold together; a layer's numbers are sums over the rows."""
        layers = tuple(
            LayerUsage(
                parts[0].layer,
                sum(part.seen_tokens for part in parts),
                sum(part.kept_tokens for part in parts),
                sum(part.bytes for part in parts),
                sum(part.fine_tokens for part in parts),
            )
            for parts in zip(*(row.layers for row in rows), strict=True)
        )
        names = ("full_bytes", "allocated_bytes", "left_bytes")
        full, allocated, left = (sum(getattr(row, name) for row in rows) for name in names)
        entries = [sum(layer.kept_tokens for layer in row.layers) for row in rows]
        all_bits = sum(row.bits * count for row, count in zip(rows, entries, strict=True))
        bits = all_bits / sum(entries) if any(entries) else rows[0].bits
        return cls.of(layers, full, allocated, bits, ",".join(dict.fromkeys(row.codec for row in rows)), left)

    def words(self) -> tuple[str, str, str]:
        """The totals as all screens say them: tokens kept of tokens read, bits, and bytes of a 16-bit cache's."""
        size = f"{format_bytes(self.kept_bytes)} of {format_bytes(self.full_bytes)} ({self.bytes_fraction:.1%})"
        if self.left_bytes:
            size += f", beside {format_bytes(self.left_bytes)} of layers left alone"
        return f"kept {self.kept_tokens_fraction:.1%} of the tokens", f"{self.codec}, {self.bits:.3g} bits", size

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
        return html_table(
            " · ".join(self.words()), ("layer", "tokens kept", "tokens read", "kept of read", "bytes"), rows
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}


class ShownByUsage:
    """What a notebook shows as the table of its usage."""

    def usage(self) -> CacheUsage:
        """What is held now."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """A notebook's table, as of `usage`."""
        return self.usage()._repr_html_()
