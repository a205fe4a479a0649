"""A picture of an evaluation: quality over kept bytes, a line for each method; or bars where there is one budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv_cli.tables.eval_table import LABELS, LOWER_IS_BETTER, SHARES, data_title, label, shown_metrics

PANELS_A_ROW, PANEL_INCHES = 3, (4.6, 3.9)
OFFSET = 0.012
"""Methods of one budget lie so many decades beside each other, so that their intervals can be told apart."""


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
    full = next(cell for cell in cells if label(cell) == "full")
    measured = [cell for cell in cells if cell is not full and not cell["shared_with_full"]]
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
    picture.suptitle(_caption(figures), fontsize="medium")
    try:
        picture.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(picture)


def _caption(figures: Mapping[str, Any]) -> str:
    settings = figures["settings"]
    model = settings["model"]
    first = f"{model['id']} in {model['dtype']}, {figures['samples']} samples of {data_title(settings)}"
    return f"{first}\nbars: 95 % intervals over the samples; dashed: full cache"


def _draw_bars(
    panel: Any, name: str, full: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], colours: Any
) -> None:
    """One bar a method, best above, at the only budget."""
    cells = [cell for cell in measured if name in cell["metrics"]]
    cells.sort(key=lambda cell: cell["metrics"][name]["value"], reverse=name in LOWER_IS_BETTER)
    methods = [label(cell) for cell in measured]
    values, intervals = _values(cells, name)
    colour = [colours(methods.index(label(cell)) % 10) for cell in cells]
    panel.barh([label(cell) for cell in cells], values, xerr=intervals, color=colour, capsize=2, height=0.7)
    panel.axvline(_scaled(full["metrics"][name]["value"], name), color="black", linestyle="--", linewidth=1)
    budget = cells[0]["budget"] if cells else ""
    panel.set(xlabel=_label(name), title=f"budget {budget}")
    if name == "perplexity":
        _log_axis(panel, panel.xaxis, panel.set_xscale)


def _draw_lines(
    panel: Any, name: str, full: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], colours: Any
) -> None:
    methods = list(dict.fromkeys(label(cell) for cell in measured))
    for number, method in enumerate(methods):
        points = sorted(
            (cell for cell in measured if label(cell) == method and name in cell["metrics"]),
            key=lambda cell: cell["kept_bytes"],
        )
        shift = 10 ** (OFFSET * (number - (len(methods) - 1) / 2))
        values, intervals = _values(points, name)
        panel.errorbar(
            [100 * cell["kept_fraction"] * shift for cell in points],
            values,
            intervals,
            color=colours(number % 10),
            marker="os^Dv"[number % 5],
            markersize=4,
            linewidth=1,
            capsize=2,
            label=method,
        )
    value = _scaled(full["metrics"][name]["value"], name)
    panel.axhline(value, color="black", linestyle="--", linewidth=1, label="full cache")
    panel.set(xlabel="kept, mean over the decode (% of the full cache's bytes)", ylabel=_label(name))
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


def _values(cells: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[list[float]]]:
    """The figures, and how far their intervals reach below and above them."""
    metrics = [cell["metrics"][name] for cell in cells]
    # An interval may lie beside its value where the value is at the edge of what resampling can give.
    below = [max(0.0, metric["value"] - metric["low"]) for metric in metrics]
    above = [max(0.0, metric["high"] - metric["value"]) for metric in metrics]
    scaled = [[_scaled(value, name) for value in values] for values in (below, above)]
    return [_scaled(metric["value"], name) for metric in metrics], scaled


def _scaled(value: float, name: str) -> float:
    return 100 * value if name in SHARES else value


def _label(name: str) -> str:
    return f"{LABELS[name]} (nats a token)" if name == "kl_nats" else LABELS[name]
