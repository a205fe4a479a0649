"""The table of cache usage."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from prefixkv.usage import CacheUsage, LayerUsage
from prefixkv_cli.usage_table import BLOCK_COLUMNS, usage_line, usage_table

USAGE = CacheUsage(
    full_bytes=4 * 2**20,
    kept_bytes=2**20,
    allocated_bytes=2**20,
    keep_fraction=0.25,
    layers=tuple(LayerUsage(layer, 2000, 300 + layer, 2**15) for layer in range(33)),
)


@pytest.mark.parametrize(("max_rows", "rows", "blocks"), [(None, 33, 1), (32, 17, 2), (12, 11, 3), (1, 1, 33)])
def test_layers_go_side_by_side_in_even_blocks(max_rows: int | None, rows: int, blocks: int) -> None:
    console = Console(width=BLOCK_COLUMNS * blocks, record=True, file=io.StringIO())
    console.print(usage_table(USAGE, 12.5, max_rows))
    lines = console.export_text().splitlines()
    assert len(lines) >= rows + 2
    assert lines[0].count("layer") == blocks
    shown = re.findall(r"(\d+) / 2000", "\n".join(lines[: rows + 1]))
    assert sorted(map(int, shown)) == [300 + layer for layer in range(33)]


def test_totals_say_what_is_kept_and_saved() -> None:
    assert usage_line(USAGE, 12.5) == "kept 1 MiB of 4 MiB (25.0%) · saved 3 MiB · 12.5 tokens/s"
    assert "tokens/s" not in usage_line(USAGE)


def test_empty_cache_has_totals_only() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(usage_table(CacheUsage(0, 0, 0, 1.0, ())))
    assert console.export_text().strip() == "kept 0 B of 0 B (100.0%) · saved 0 B"
