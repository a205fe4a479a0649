"""Tables of an evaluation: every method at every budget, and accuracy by kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefixkv.evaluation.cells import labelled
from prefixkv.evaluation.figures import LOWER_IS_BETTER
from prefixkv.policy.budget import format_bytes
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv_cli import output

LABELS = {
    "perplexity": "perplexity",
    "kl_nats": "KL",
    "rouge_l": "ROUGE-L",
    "accuracy": "exact %",
    "relaxed_accuracy": "relaxed %",
}
SHARES = ("accuracy", "relaxed_accuracy")
WEIGHTS = ("size", "bits", "tokens", "bytes")
"""Columns that are left out, the first one first, where the screen is too narrow for all."""
STANDINGS = {"best": "*", "level": "~", "behind": " "}
"""Behind a figure: the best of its budget, and those whose paired difference from it has 0 in its interval."""
FEW_SAMPLES = 30
"""Below this number of samples the table says that intervals are wide."""


def eval_table(figures: Mapping[str, Any], width: int, intervals: bool = False) -> Group:
    """A block of methods for each budget; the best of a block is bold.

    Args:
        figures: as `Evaluation.run` gives them.
        width: columns of the screen.
        intervals: show both ends of each interval of 95 % instead of half its width.
    """
    for left_out in range(len(WEIGHTS) + 1):
        table = _table(figures, WEIGHTS[left_out:], intervals)
        if output.natural_width(table) <= width:
            break
    return Group(eval_title(figures), table, *_footnotes(figures, intervals))


def _table(figures: Mapping[str, Any], weights: Sequence[str], intervals: bool) -> Table:
    cells = [cell for cell in figures["cells"] if not cell["shared_with_full"]]
    names = shown_metrics(cells)
    table = Table(box=None, pad_edge=False)
    table.add_column("budget", justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for weight in reversed(weights):
        table.add_column(weight, justify="right", no_wrap=True)
    for name in names:
        table.add_column(LABELS[name], justify="right", min_width=len(LABELS[name]))
    for budget, block in groupby(cells, key=lambda cell: cell["budget"]):
        group = list(block)
        best = {name: best_value(group, name) for name in names}
        for number, cell in enumerate(group):
            weighed = {
                "bytes": f"{cell['bytes_fraction']:.1%}",
                "tokens": f"{cell['kept_tokens_fraction']:.1%}",
                "bits": f"{cell['bits']:.3g}",
                "size": format_bytes(cell["kept_bytes"]),
            }
            measured = [_figure(cell["metrics"].get(name), name, best[name], intervals) for name in names]
            table.add_row(
                budget if number == 0 else "",
                f"{label(cell)}{'!' if cell['marks'] else ''}",
                *(weighed[weight] for weight in reversed(weights)),
                *measured,
            )
        table.add_section()
    return table


def label(cell: Mapping[str, Any]) -> str:
    """What a cell is called beside its budget: its method, and its codec where that is not `auto`."""
    return labelled(cell["method"], cell.get("codec", DEFAULT_CODEC))


def shared_line(cells: Sequence[Mapping[str, Any]]) -> str:
    """Says which methods the full cache stands for; empty where it stands for itself only."""
    shared = list(dict.fromkeys(label(cell) for cell in cells if cell["shared_with_full"]))
    if not shared:
        return ""
    return f"at 100% nothing is evicted, so the full cache, measured once, stands for {', '.join(shared)} too"


def shown_metrics(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures there are; relaxed accuracy only where it says something else than exact match."""
    names = [name for name in LABELS if any(name in cell["metrics"] for cell in cells)]
    if all(cell["metrics"].get("relaxed_accuracy") == cell["metrics"].get("accuracy") for cell in cells):
        names = [name for name in names if name != "relaxed_accuracy"]
    return names


def kinds_table(figures: Mapping[str, Any]) -> RenderableType:
    """Exact-match accuracy for every kind of question: a column for each cell that was run."""
    cells = [cell for cell in figures["cells"] if not cell["shared_with_full"]]
    kinds = list(cells[0]["kinds"])
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    table.add_column("samples", justify="right")
    for cell in cells:
        table.add_column(f"{label(cell)}\n{cell['budget']}", justify="right")
    for kind in kinds:
        shares = [f"{cell['kinds'][kind]['accuracy']:.1%}" for cell in cells]
        table.add_row(kind, str(cells[0]["kinds"][kind]["samples"]), *shares)
    return table


def eval_title(figures: Mapping[str, Any]) -> str:
    """Which model, where, and on what."""
    settings = figures["settings"]
    model = settings["model"]
    where = f"{model['id']} ({model['dtype']}, {settings['device']})"
    return f"{where}, {figures['samples']} samples of {data_title(settings)}"


def data_title(settings: Mapping[str, Any]) -> str:
    """The data in words: a drawn set's number is its seed, not how many there are."""
    kind, _, rest = settings["data"].partition(":")
    return f"{kind} with seed {rest}" if kind in ("scenes", "followups", "documents") else settings["data"]


def best_value(group: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The best value of a block; None where there is nothing to compare."""
    values = [cell["metrics"][name]["value"] for cell in group if name in cell["metrics"]]
    if len(values) < 2 or min(values) == max(values):
        return None
    return min(values) if name in LOWER_IS_BETTER else max(values)


def _figure(metric: Mapping[str, Any] | None, name: str, best: float | None, intervals: bool) -> Text:
    if metric is None:
        return Text("")
    if intervals:
        spread = f"[{formatted(metric['low'], name)}, {formatted(metric['high'], name)}]"
    else:
        spread = f"±{formatted((metric['high'] - metric['low']) / 2, name)}"
    mark = STANDINGS.get(metric.get("standing", ""), "")
    return Text(f"{formatted(metric['value'], name)} {spread}{mark}", style="bold" if metric["value"] == best else "")


def formatted(value: float, name: str) -> str:
    """A figure as tables show it; shares in per cent.

    Args:
        value: the figure.
        name: of the metric.
    """
    if name in SHARES:
        return f"{100 * value:.1f}"
    if name == "perplexity":
        return f"{value:.3f}" if value < 100 else f"{value:.4g}" if value < 1e6 else f"{value:.1e}"
    return f"{value:.3f}"


def remarks(figures: Mapping[str, Any]) -> list[str]:
    """What a reader should know of these samples."""
    samples, short = figures["samples"], figures.get("single_token_share", 0)
    notes = []
    if short:
        is_exact = figures["settings"].get("first_token") == "prompt"
        why = ", which is computed before anything is evicted: they say nothing about a cache" if is_exact else ""
        notes.append(f"{short:.1%} of the reference answers are one token long{why}")
    if samples < FEW_SAMPLES:
        notes.append(f"{samples} samples are few: a difference that is smaller than the intervals means nothing")
    return notes


def _footnotes(figures: Mapping[str, Any], intervals: bool) -> list[str]:
    cells = figures["cells"]
    shared = shared_line(cells)
    spread = "[both ends]" if intervals else "± half the width"
    notes = [
        f"{spread} of the 95 % interval over the samples; KL in nats a token",
        "* best of a budget; ~ not told from it: the paired difference has 0 in its interval of 95 %",
        "kept: bytes of a 16-bit cache's, tokens of those read, bits of an element",
    ]
    notes += [shared] if shared else []
    notes += remarks(figures)
    notes += [
        f"! {label(cell)} at {cell['budget']}: {', '.join(cell['marks'])}; kept {cell['bytes_fraction']:.2%}, "
        f"asked {cell['asked_fraction']:.2%}"
        for cell in cells
        if cell["marks"]
    ]
    notes += worst_depths(figures) if figures["settings"]["data"].startswith("needle:") else []
    return notes


def worst_depths(figures: Mapping[str, Any]) -> list[str]:
    """For each cell the place in the text where fewest facts are found."""
    lines = []
    for cell in figures["cells"]:
        if cell["kinds"] and not cell["shared_with_full"]:
            depth, found = min(cell["kinds"].items(), key=lambda item: item[1]["accuracy"])
            lines.append(f"{label(cell)} at {cell['budget']}: worst at {depth}, {found['accuracy']:.1%} found")
    return lines
