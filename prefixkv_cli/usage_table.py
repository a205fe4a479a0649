"""The table of cache usage: what each layer has read and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from prefixkv.budget import format_bytes
from prefixkv.usage import CacheUsage, LayerUsage

BLOCK_COLUMNS = 38
"""Width of one block of the table, borders included."""


def usage_table(usage: CacheUsage, tokens_per_second: float | None = None, max_rows: int | None = None) -> Group:
    """All layers, with the totals below.

    Args:
        usage: what the cache holds.
        tokens_per_second: speed of the answer, where it is known.
        max_rows: more layers than this go side by side, in blocks.

    Returns:
        The table, two lines higher than its rows where the terminal is wide enough.
    """
    blocks = _blocks(usage.layers, max_rows or len(usage.layers))
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for number in range(len(blocks)):
        table.add_column("layer" if number == 0 else "| layer", justify="right")
        table.add_column("kept / seen", justify="right")
        table.add_column("bytes", justify="right")
        table.add_column("share", justify="right")
    for row in range(len(blocks[0]) if blocks else 0):
        table.add_row(*(cell for block in blocks for cell in (_cells(block[row]) if row < len(block) else [""] * 4)))
    return Group(table, Text(usage_line(usage, tokens_per_second)))


def usage_line(usage: CacheUsage, tokens_per_second: float | None = None) -> str:
    """The totals in one line."""
    saved = max(0, usage.full_bytes - usage.kept_bytes)
    parts = [
        f"kept {format_bytes(usage.kept_bytes)} of {format_bytes(usage.full_bytes)} ({usage.keep_fraction:.1%})",
        f"saved {format_bytes(saved)}",
    ]
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:.1f} tokens/s")
    return " · ".join(parts)


def _blocks(layers: Sequence[LayerUsage], rows: int) -> list[Sequence[LayerUsage]]:
    if not layers:
        return []
    # Even blocks: 32 layers that need two blocks are 16 and 16, not 30 and 2.
    rows = -(-len(layers) // -(-len(layers) // rows))
    return [layers[start : start + rows] for start in range(0, len(layers), rows)]


def _cells(layer: LayerUsage) -> list[str]:
    share = layer.kept_tokens / layer.seen_tokens if layer.seen_tokens else 1.0
    return [
        str(layer.layer),
        f"{layer.kept_tokens} / {layer.seen_tokens}",
        format_bytes(layer.bytes),
        f"{share:.0%}",
    ]
