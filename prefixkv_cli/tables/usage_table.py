"""The table of cache usage: what each layer has read and what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from prefixkv.cache.usage import CacheUsage
from prefixkv.policy.budget import format_bytes

if TYPE_CHECKING:
    from prefixkv.chat.entry_kinds import EntryKinds


def usage_table(
    usage: CacheUsage, tokens_per_second: float | None = None, kinds: Sequence[EntryKinds] | None = None
) -> Group:
    """All layers, with the totals below; 60 columns are enough.

    Args:
        usage: what the cache holds.
        tokens_per_second: speed of the answer, where it is known.
        kinds: of what the kept entries are, one per layer; not shown where None.
    """
    # All seven columns fit 60 only with one space between them.
    table = Table(box=None, padding=(0, 1, 0, 0) if kinds else (0, 1), pad_edge=False)
    headings = ["layer", "kept / seen", "kept", "bytes"]
    for heading in headings + (["picture", "text", "written"] if kinds else []):
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in usage.layers:
        kept = layer.kept_tokens / layer.seen_tokens if layer.seen_tokens else 1.0
        cells = [f"{layer.kept_tokens} / {layer.seen_tokens}", f"{kept:.0%}", format_bytes(layer.bytes)]
        if kinds:
            kind = kinds[layer.layer]
            cells += [str(kind.picture), str(kind.text), str(kind.generated)]
        table.add_row(str(layer.layer), *cells)
    return Group(table, Text(usage_line(usage, tokens_per_second)))


def usage_line(usage: CacheUsage, tokens_per_second: float | None = None) -> str:
    """The totals in one line."""
    parts = [*usage.words(), f"allocated {format_bytes(usage.allocated_bytes)}"]
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:.1f} tokens/s")
    return " · ".join(parts)
