"""A picture of a benchmark: how time and memory grow with the context, and a step with the rows; bars of one load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError

GIB = 2**30
_AXES = {"context_tokens": "tokens of the prompt", "batch": "rows"}


def draw_benchmark(record: Mapping[str, Any], path: Path) -> None:
    """Draw up to four panels: prefill time and peak memory over the context, a step over the context and the rows.

    A panel for which nothing was measured is left out, such as the memory of a prefill on a CPU.

    Args:
        record: as `run_benchmark` gives it.
        path: a .png or .svg file.

    Raises:
        PrefixKVError: the file cannot be written, or there is nothing to draw.
    """
    cells = [cell for cell in record["cells"] if not cell["failure"]]
    single = [cell for cell in cells if cell["batch"] == 1]
    several = _at_the_widest_context(cells)
    drawn = [
        (single, "context_tokens", _field("prefill_ms"), "prefill (ms), one row", False),
        (single, "context_tokens", _peak_gib, "prefill's peak memory above the weights (GiB)", False),
        (single, "context_tokens", _field("step_ms"), "decode step (ms), one row", True),
        (several, "batch", _field("step_ms"), _step_label(several), True),
    ]
    if len({cell["batch"] for cell in several}) < 2:
        drawn.pop()
    drawn = [panel for panel in drawn if any(panel[2](cell) is not None for cell in panel[0])]
    if not drawn:
        raise PrefixKVError("there is nothing to draw: no cell of the benchmark has a figure")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(drawn))
    rows = -(-len(drawn) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(5.5 * columns, 4 * rows), layout="constrained", squeeze=False
    )
    panels = list(grid.flat)
    for panel, (chosen, axis, value, label, log) in zip(panels, drawn, strict=False):
        _draw(panel, chosen, axis, value, label, log)
    for panel in panels[len(drawn) :]:
        panel.remove()
    figure.suptitle(_caption(record), fontsize="medium")
    handles = {label: line for panel in panels[: len(drawn)] for line, label in zip(*_entries(panel), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    try:
        figure.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def _caption(record: Mapping[str, Any]) -> str:
    dtype = f" in {record['dtype']}" if record.get("dtype") else ""
    return f"{record['model']}{dtype} on {record['device']}, medians"


def _entries(panel: Any) -> tuple[list[Any], list[str]]:
    """What a panel has for the legend: its lines and their names."""
    lines, names = panel.get_legend_handles_labels()
    return lines, names


def _field(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda cell: cell[name]


def _step_label(cells: Sequence[Mapping[str, Any]]) -> str:
    return f"decode step (ms), {cells[0]['context_tokens']:,} tokens a row" if cells else ""


def _draw(
    panel: Any,
    cells: Sequence[Mapping[str, Any]],
    axis: str,
    value: Callable[[Mapping[str, Any]], float | None],
    label: str,
    log: bool = False,
) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for cell in cells:
        figure = value(cell)
        if figure is not None:
            name = "transformers" if cell["engine"] == "transformers" else f"{cell['budget']} {cell['method']}"
            if cell.get("look_ahead_queries") == 0:
                name += ", no look-ahead"
            lines.setdefault(name, []).append((cell[axis], figure))
    if len({cell[axis] for cell in cells}) == 1:
        _draw_bars(panel, lines, label, f"{cells[0][axis]:,} {_AXES[axis]}")
        return
    for name, points in lines.items():
        places, figures = zip(*sorted(points), strict=True)
        style = "--" if name == "transformers" else "-"
        panel.plot(places, figures, style, marker="o", markersize=3, label=name)
    panel.set(xlabel=_AXES[axis], ylabel=label)
    # The numbers of tokens and rows that were measured; and no 1.1 x 10^1 where a line spans less than a decade.
    panel.set_xticks(sorted({cell[axis] for cell in cells}))
    panel.set_yscale("log") if log else panel.set_ylim(bottom=0)
    for formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
        formatter("{x:g}")
    panel.margins(x=0.1)


def _draw_bars(panel: Any, lines: Mapping[str, Sequence[tuple[int, float]]], label: str, load: str) -> None:
    """One bar a line, where all of them would be a point; the first one above."""
    for name, ((_, figure), *_) in reversed(list(lines.items())):
        bar = panel.barh([name], [figure], height=0.6, label=name, color=f"C{list(lines).index(name)}")
        panel.bar_label(bar, fmt="{:.3g}", padding=3)
    panel.set(xlabel=label, title=load)
    panel.margins(x=0.15)


def _peak_gib(cell: Mapping[str, Any]) -> float | None:
    peak = cell["prefill_peak_bytes"]
    return None if peak is None else peak / GIB


def _at_the_widest_context(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of the context with the most different numbers of rows."""
    contexts = sorted({cell["context_tokens"] for cell in cells})
    blocks = [[cell for cell in cells if cell["context_tokens"] == context] for context in contexts]
    return max(blocks, key=lambda block: len({cell["batch"] for cell in block}), default=[])
