"""A picture of an evaluation: quality over kept bytes, a line for each method; or bars where there is one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.figures import LOWER_IS_BETTER
from prefixkv_cli.plots.eval_series import (
    KEPT_LABEL,
    axis_label,
    caption,
    drawn_cells,
    full_cell,
    scaled,
    shifts,
    values,
)
from prefixkv_cli.tables.eval_table import label, shown_metrics

PANELS_A_ROW, PANEL_INCHES = 3, (4.6, 3.9)


def draw_evaluation(figures: Mapping[str, Any], path: Path) -> None:
    """Draw one panel for each metric, with intervals of 95 %; the dashed line is the full cache.

    Args:
        figures: as `Evaluation.run` gives them.
        path: a .png, .svg or .pdf file.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = figures["cells"]
    full, measured = full_cell(cells), drawn_cells(cells)
    names = shown_metrics(cells)
    columns = max(1, min(PANELS_A_ROW, len(names)))
    rows = max(1, -(-len(names) // columns))
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.9)
    picture, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    is_one_budget = len({cell["budget"] for cell in measured}) == 1
    draw = _draw_bars if is_one_budget else _draw_lines
    for panel, name in zip(panels, names, strict=False):
        draw(panel, name, full, measured, matplotlib.colormaps["tab10"])
    for panel in panels[len(names) :]:
        panel.remove()
    if names and not is_one_budget:
        lines, labels = panels[0].get_legend_handles_labels()
        picture.legend(lines, labels, loc="outside lower center", ncols=5, fontsize="small")
    picture.suptitle("\n".join(caption(figures)), fontsize="medium", wrap=True)
    try:
        picture.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(picture)


def _draw_bars(
    panel: Any, name: str, full: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], colours: Any
) -> None:
    """One bar a method, best above, at the only budget."""
    cells = [cell for cell in measured if name in cell["metrics"]]
    cells.sort(key=lambda cell: cell["metrics"][name]["value"], reverse=name in LOWER_IS_BETTER)
    methods = [label(cell) for cell in measured]
    figures, intervals = values(cells, name)
    colour = [colours(methods.index(label(cell)) % 10) for cell in cells]
    panel.barh([label(cell) for cell in cells], figures, xerr=intervals, color=colour, capsize=2, height=0.7)
    panel.axvline(scaled(full["metrics"][name]["value"], name), color="black", linestyle="--", linewidth=1)
    budget = cells[0]["budget"] if cells else ""
    panel.set(xlabel=axis_label(name), title=f"budget {budget}")
    if name == "perplexity":
        _log_axis(panel, panel.xaxis, panel.set_xscale)


def _draw_lines(
    panel: Any, name: str, full: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], colours: Any
) -> None:
    methods = list(dict.fromkeys(label(cell) for cell in measured))
    shift = shifts(methods)
    for number, method in enumerate(methods):
        points = sorted(
            (cell for cell in measured if label(cell) == method and name in cell["metrics"]),
            key=lambda cell: cell["kept_bytes"],
        )
        figures, intervals = values(points, name)
        panel.errorbar(
            [100 * cell["bytes_fraction"] * shift[method] for cell in points],
            figures,
            intervals,
            color=colours(number % 10),
            marker="os^Dv"[number % 5],
            markersize=4,
            linewidth=1,
            capsize=2,
            label=method,
        )
    value = scaled(full["metrics"][name]["value"], name)
    panel.axhline(value, color="black", linestyle="--", linewidth=1, label="full cache")
    panel.set(xlabel=KEPT_LABEL, ylabel=axis_label(name))
    _log_axis(panel, panel.xaxis, panel.set_xscale)
    asked = sorted({round(100 * cell["asked_fraction"], 3) for cell in measured})
    panel.set_xticks(asked, [f"{share:g}" for share in asked])
    panel.minorticks_off()
    if name == "perplexity":
        _log_axis(panel, panel.yaxis, panel.set_yscale)


def _log_axis(panel: Any, axis: Any, set_scale: Any) -> None:
    """A logarithmic axis whose numbers are written out."""
    set_scale("log")
    axis.set_major_formatter("{x:g}")
    low, high = axis.get_view_interval()
    # Between two powers of ten there would be no number at all otherwise.
    axis.set_minor_formatter("{x:g}" if high < 10 * low else "")
