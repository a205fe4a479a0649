"""An evaluation's figures for other programs: a Markdown table, and comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from prefixkv.policy.budget import format_bytes
from prefixkv_cli.tables.eval_table import LABELS, STANDINGS, eval_title, formatted, label, remarks, shown_metrics


def markdown(figures: Mapping[str, Any]) -> str:
    """A GitHub table with the intervals of 95 %, the model and data above it, and what to know below.

    Args:
        figures: as `Evaluation.run` gives them.
    """
    cells = [cell for cell in figures["cells"] if not cell["shared_with_full"]]
    names = shown_metrics(cells)
    rows = [
        ["budget", "method", "bytes kept", "tokens kept", "bits", "size", *(LABELS[name] for name in names)],
        ["---:", "---", *["---:"] * (4 + len(names))],
    ]
    for cell in cells:
        kept = f"{cell['bytes_fraction']:.1%}{' (' + ', '.join(cell['marks']) + ')' if cell['marks'] else ''}"
        measured = (_with_interval(cell["metrics"].get(name), name) for name in names)
        weights = f"{cell['kept_tokens_fraction']:.1%}", f"{cell['bits']:.3g}", format_bytes(cell["kept_bytes"])
        rows.append([cell["budget"], f"`{label(cell)}`", kept, *weights, *measured])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    below = "".join(f"\n{remark[0].upper()}{remark[1:]}.\n" for remark in remarks(figures))
    return f"{eval_title(figures)}:\n\n{table}{below}"


def comma_separated(figures: Mapping[str, Any]) -> str:
    """One line for each cell, with plain numbers; a metric's interval of 95 % is in its columns _low and _high.

    Args:
        figures: as `Evaluation.run` gives them.
    """
    names = [name for name in LABELS if any(name in cell["metrics"] for cell in figures["cells"])]
    weights = ("kept_bytes", "full_bytes", "bytes_fraction", "asked_fraction", "kept_tokens_fraction", "bits")
    measured = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["method", "codec", "budget", "samples", *weights, "marks", *measured])
    for cell in figures["cells"]:
        told = [
            cell["method"],
            cell["codec"],
            cell["budget"],
            figures["samples"],
            *(cell[weight] for weight in weights),
        ]
        values = [cell["metrics"].get(name, {}).get(end, "") for name in names for end in ("value", "low", "high")]
        writer.writerow([*told, "; ".join(cell["marks"]), *values])
    return written.getvalue()


def _with_interval(metric: Mapping[str, Any] | None, name: str) -> str:
    if metric is None:
        return ""
    mark = STANDINGS.get(metric.get("standing", ""), "").strip()
    interval = f"[{formatted(metric['low'], name)}, {formatted(metric['high'], name)}]"
    return f"{formatted(metric['value'], name)}{mark} {interval}"
