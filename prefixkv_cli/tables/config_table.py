"""The table of a configuration: what every layer keeps."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group
from rich.table import Table

from prefixkv.policy.budget import format_bytes
from prefixkv.policy.codec import get_codec
from prefixkv.profiles.config import PrefixConfig


def config_table(config: PrefixConfig) -> Group:
    """A row for each layer, or for a run of layers that keep as much; and the totals.

    Args:
        config: what to show.
    """
    geometry, budget = config.model.geometry, config.budget
    rows, entry = budget["batch"], get_codec(config.codec).entry_size(geometry)
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "of its bytes", "kept / seen", "bytes"):
        table.add_column(heading, justify="right")
    kept = enumerate(zip(config.keep_fractions, config.kept_tokens(), strict=True))
    for _, same in groupby(kept, key=lambda layer: layer[1]):
        (first, (fraction, tokens)), *others = same
        size = format_bytes(tokens * entry.counted * rows)
        layers = f"{first} to {others[-1][0]}" if others else str(first)
        each = " each" if others else ""
        table.add_row(layers, f"{fraction:.1%}", f"{tokens} / {budget['context_tokens']}{each}", f"{size}{each}")
    full = geometry.counted_token_bytes * budget["context_tokens"] * rows
    uncompressed = budget["bytes"] // (geometry.counted_token_bytes * rows)
    return Group(
        f"{config.name}: {config.model.id}, method {config.method}, codec {config.codec}, "
        f"allocation {config.allocation}",
        table,
        f"keeps {format_bytes(budget['bytes'])} of {format_bytes(full)} ({budget['bytes'] / full:.1%}) for {rows} x "
        f"{budget['context_tokens']} tokens; a full cache of so many bytes holds {rows} x {uncompressed} tokens",
    )
