"""The table of a configuration: what every layer keeps."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from prefixkv.policy.budget import format_bytes
from prefixkv.profiles.config import PrefixConfig


def config_table(config: PrefixConfig) -> Group:
    """A row for each layer, and the totals.

    Args:
        config: what to show.
    """
    geometry, budget = config.model.geometry, config.budget
    rows = budget["batch"]
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "keep", "tokens", "bytes"):
        table.add_column(heading, justify="right")
    for layer, (fraction, tokens) in enumerate(zip(config.keep_fractions, config.kept_tokens(), strict=True)):
        size = format_bytes(tokens * geometry.entry_bytes * rows)
        table.add_row(str(layer), f"{fraction:.1%}", f"{tokens} / {budget['context_tokens']}", size)
    full = geometry.token_bytes * budget["context_tokens"] * rows
    uncompressed = budget["bytes"] // (geometry.token_bytes * rows)
    return Group(
        f"{config.name}: {config.model.id}, method {config.method}, allocation {config.allocation}",
        table,
        f"keeps {format_bytes(budget['bytes'])} of {format_bytes(full)} ({budget['keep_fraction']:.1%}) for {rows} x "
        f"{budget['context_tokens']} tokens; uncompressed the same bytes hold {rows} x {uncompressed} tokens",
    )
