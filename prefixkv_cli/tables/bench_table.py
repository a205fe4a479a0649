"""The table of a benchmark: a block for each load, stock transformers first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from prefixkv.policy.budget import format_bytes

COLUMNS = ("prefill", "", "step", "", "tokens/s", "cache", "peak", "roofline")


def bench_table(record: Mapping[str, Any]) -> Group:
    """A table for each load. Behind a time, in milliseconds, how it compares with stock transformers on the same load.

    Args:
        record: as `run_benchmark` gives it.
    """
    cells, tables = record["cells"], []
    for load, block in groupby(cells, key=_load):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left", title_style="bold")
        table.title = f"{load[0]} tokens, {load[1]} row{'s' * (load[1] > 1)}"
        table.add_column("", no_wrap=True, min_width=12)
        for name in COLUMNS:
            table.add_column(name, justify="right", no_wrap=True)
        for cell in block:
            table.add_row(*_row(cell, _stock(cells, load)))
        tables.append(table)
    versions = record["versions"]
    methods = sorted({cell["method"] for cell in cells if cell["method"]})
    codecs = sorted({cell["codec"] for cell in cells if cell.get("codec")})
    stored = f", codec {', '.join(codecs)}" if codecs else ""
    line = (
        "times in ms; behind them, prefill as a multiple of stock and how many times faster a step is; share of the "
        f"roofline reached\n{record['model']}, {record['dtype']}, method {', '.join(methods) or 'none'}{stored}, on "
        f"{record['device']}: torch {versions['torch']}, transformers {versions['transformers']}; copies "
        f"{record['copy_bytes_per_second'] / 1e9:,.0f} GB/s"
    )
    captured = record.get("captured", {"graphs": 0})
    if captured["graphs"]:
        line += f"; captured steps: {captured['graphs']}, {format_bytes(captured['bytes'])}"
    if captured.get("reading_bytes"):
        line += f"; captured parts of reading: {format_bytes(captured['reading_bytes'])}"
    return Group(*tables, Text(line, style="dim"))


def progress_line(cell: Mapping[str, Any]) -> str:
    """One line for a cell that is done."""
    what = f"{cell['context_tokens']} tokens, {cell['batch']} rows, {_engine(cell)}"
    if cell["failure"]:
        return f"{what}: {cell['failure']}"
    return f"{what}: prefill {cell['prefill_ms']:.1f} ms, step {cell['step_ms']:.2f} ms"


def _load(cell: Mapping[str, Any]) -> tuple[int, int]:
    return cell["context_tokens"], cell["batch"]


def _stock(cells: Sequence[Mapping[str, Any]], load: tuple[int, int]) -> Mapping[str, Any] | None:
    found = [cell for cell in cells if cell["engine"] == "transformers" and _load(cell) == load and not cell["failure"]]
    return found[0] if found else None


def _engine(cell: Mapping[str, Any]) -> str:
    if cell["engine"] != "prefixkv":
        return str(cell["engine"])
    aside = " no look-ahead" if cell.get("look_ahead_queries") == 0 else ""
    return f"{cell['budget']}{aside}" + (" plain" if cell["path"] == "plain" else "")


def _row(cell: Mapping[str, Any], stock: Mapping[str, Any] | None) -> list[str]:
    if cell["failure"]:
        return [_engine(cell), cell["failure"]]
    compared = stock if stock is not None and stock is not cell else None
    peak = cell["peak_bytes"]
    return [
        _engine(cell),
        f"{cell['prefill_ms']:.1f}",
        f"{cell['prefill_ms'] / compared['prefill_ms']:.2f}x" if compared else "",
        f"{cell['step_ms']:.2f}",
        f"{compared['step_ms'] / cell['step_ms']:.1f}x" if compared else "",
        f"{cell['tokens_per_second']:,.0f}",
        format_bytes(cell["kv_bytes"]),
        "" if peak is None else format_bytes(peak),
        f"{cell['roofline_share']:.0%}",
    ]
