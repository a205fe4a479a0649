"""What a picture and a page of an evaluation draw alike: figures with the reach of their intervals, and captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefixkv_cli.tables.eval_table import LABELS, SHARES, data_title, label, remarks

OFFSET = 0.012
"""Methods of one budget lie so many decades beside each other, so that their intervals can be told apart."""
KEPT_LABEL = "kept, mean over the decode (% of a 16-bit cache's bytes)"


def caption(figures: Mapping[str, Any]) -> list[str]:
    """Model, dtype and data; what the bars mean; and what a reader should know of the samples."""
    settings = figures["settings"]
    model = settings["model"]
    first = f"{model['id']} in {model['dtype']}, {figures['samples']} samples of {data_title(settings)}"
    return [first, "bars: 95 % intervals over the samples; dashed: full cache", *remarks(figures)]


def full_cell(cells: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The cell of the full cache."""
    return next(cell for cell in cells if label(cell) == "full")


def drawn_cells(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells beside the full cache that were measured themselves."""
    full = full_cell(cells)
    return [cell for cell in cells if cell is not full and not cell["shared_with_full"]]


def values(cells: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[list[float]]]:
    """The figures of one metric, and how far their intervals reach below and above them."""
    metrics = [cell["metrics"][name] for cell in cells]
    # An interval may lie beside its value where the value is at the edge of what resampling can give.
    below = [max(0.0, metric["value"] - metric["low"]) for metric in metrics]
    above = [max(0.0, metric["high"] - metric["value"]) for metric in metrics]
    reach = [[scaled(value, name) for value in side] for side in (below, above)]
    return [scaled(metric["value"], name) for metric in metrics], reach


def shifts(methods: Sequence[str]) -> dict[str, float]:
    """By what each method's place on a logarithmic axis is multiplied."""
    middle = (len(methods) - 1) / 2
    return {method: 10 ** (OFFSET * (number - middle)) for number, method in enumerate(methods)}


def scaled(value: float, name: str) -> float:
    """A figure as it is drawn: shares in per cent."""
    return 100 * value if name in SHARES else value


def axis_label(name: str) -> str:
    """What stands beside a metric's axis."""
    return f"{LABELS[name]} (nats a token)" if name == "kl_nats" else LABELS[name]
