"""Tables of an evaluation: every method at every budget, and accuracy by kind of question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from prefixkv.policy.budget import format_bytes

LABELS = {
    "perplexity": "perplexity",
    "kl_nats": "KL (nats/token)",
    "rouge_l": "ROUGE-L",
    "accuracy": "exact",
    "relaxed_accuracy": "relaxed",
}
LOWER_IS_BETTER = ("perplexity", "kl_nats")
SHARES = ("accuracy", "relaxed_accuracy")


def eval_table(figures: Mapping[str, Any]) -> Group:
    """A block of methods for each budget, with intervals of 95 % over the samples; the best of a block is bold.

    Args:
        figures: as `Evaluation.run` gives them.
    """
    cells = [cell for cell in figures["cells"] if not cell["shared_with_full"]]
    names = shown_metrics(cells)
    table = Table(box=None, pad_edge=False)
    table.add_column("budget", justify="right")
    table.add_column("method")
    table.add_column("kept", justify="right")
    table.add_column("bytes", justify="right")
    for name in names:
        table.add_column(LABELS[name], justify="right")
    for budget, block in groupby(cells, key=lambda cell: cell["budget"]):
        group = list(block)
        best = {name: _best(group, name) for name in names}
        for number, cell in enumerate(group):
            measured = [_figure(cell["metrics"].get(name), name, best[name]) for name in names]
            table.add_row(
                budget if number == 0 else "",
                f"{cell['method']}{'!' if cell['marks'] else ''}",
                f"{cell['kept_fraction']:.1%}",
                format_bytes(cell["kept_bytes"]),
                *measured,
            )
        table.add_section()
    return Group(_title(figures), table, *_footnotes(figures["cells"]))


def shared_line(cells: Sequence[Mapping[str, Any]]) -> str:
    """Says which methods the full cache stands for; empty where it stands for itself only."""
    shared = list(dict.fromkeys(cell["method"] for cell in cells if cell["shared_with_full"]))
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
        table.add_column(f"{cell['method']}\n{cell['budget']}", justify="right")
    for kind in kinds:
        shares = [f"{cell['kinds'][kind]['accuracy']:.1%}" for cell in cells]
        table.add_row(kind, str(cells[0]["kinds"][kind]["samples"]), *shares)
    return table


def _title(figures: Mapping[str, Any]) -> str:
    settings = figures["settings"]
    model = settings["model"]
    return f"{model['id']} ({model['dtype']}, {settings['device']}), {figures['samples']} samples of {settings['data']}"


def _best(group: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The best value of a block; None where there is nothing to compare."""
    values = [cell["metrics"][name]["value"] for cell in group if name in cell["metrics"]]
    if len(values) < 2 or min(values) == max(values):
        return None
    return min(values) if name in LOWER_IS_BETTER else max(values)


def _figure(metric: Mapping[str, float] | None, name: str, best: float | None) -> Text:
    if metric is None:
        return Text("")
    text = f"{_number(metric['value'], name)} [{_number(metric['low'], name)}, {_number(metric['high'], name)}]"
    return Text(text, style="bold" if metric["value"] == best else "")


def _number(value: float, name: str) -> str:
    if name in SHARES:
        return f"{100 * value:.1f}"
    if name == "perplexity":
        return f"{value:.3f}" if value < 100 else f"{value:.4g}" if value < 1e6 else f"{value:.1e}"
    return f"{value:.3f}"


def _footnotes(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    shared = shared_line(cells)
    notes = [shared] if shared else []
    notes += [
        f"! {cell['method']} at {cell['budget']}: {', '.join(cell['marks'])}; kept {cell['kept_fraction']:.2%}, "
        f"asked {cell['asked_fraction']:.2%}"
        for cell in cells
        if cell["marks"]
    ]
    return notes
