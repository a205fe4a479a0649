"""The page of an evaluation: loss over kept bytes, a line for each method, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from prefixkv.evaluation.figures import LOWER_IS_BETTER
from prefixkv.html_table import html_table
from prefixkv.policy.budget import format_bytes
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
from prefixkv_cli.reports.page import TEMPLATE, figure, heading, notes, wide, write_page
from prefixkv_cli.tables.eval_table import (
    best_value,
    eval_title,
    formatted,
    label,
    shared_line,
    shown_metrics,
)

_COLUMNS = 2
"""Metrics side by side."""
_PANEL_HEIGHT, _BARS_HEIGHT, _BAR_HEIGHT, _LEGEND_HEIGHT = 340, 130, 34, 110
"""Pixels of a panel of lines, of one of bars without them and of each bar, and of the legend."""
_ROUND = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
"""Numbers at a logarithmic axis; Plotly's own leave out the zeros of all but the powers of ten."""
_MARKERS = ("circle", "square", "triangle-up", "diamond", "cross", "x")


def write_evaluation(figures: Mapping[str, Any], path: Path) -> None:
    """Write the page: one panel for each metric, with intervals of 95 %; the dashed line is the full cache.

    Args:
        figures: as `Evaluation.run` gives them.
        path: a .html file.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    said, *further = caption(figures)
    shared = shared_line(figures["cells"])
    drawn = []
    if drawn_cells(figures["cells"]):
        drawn = [figure(_panels(figures), "quality"), notes(_sentences([*_handling(figures), *further]))]
    table = [heading("All figures"), wide(_table(figures)), notes(_sentences([shared] if shared else []))]
    write_page(path, f"Quality under compression: {said}", [*drawn, *table])


def _sentences(lines: Sequence[str]) -> list[str]:
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def _has_one_budget(figures: Mapping[str, Any]) -> bool:
    return len({cell["budget"] for cell in drawn_cells(figures["cells"])}) == 1


def _handling(figures: Mapping[str, Any]) -> list[str]:
    return [] if _has_one_budget(figures) else ["a click on a method hides it, a double click shows it alone"]


def _panels(figures: Mapping[str, Any]) -> Any:
    from plotly.subplots import make_subplots

    cells = figures["cells"]
    names, measured, full = shown_metrics(cells), drawn_cells(cells), full_cell(cells)
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    is_one_budget = _has_one_budget(figures)
    panel_height = _BARS_HEIGHT + _BAR_HEIGHT * len(measured) if is_one_budget else _PANEL_HEIGHT
    height = panel_height * rows + _LEGEND_HEIGHT
    spacing = {"horizontal_spacing": 0.2 if is_one_budget else 0.1, "vertical_spacing": 70 / height}
    page = make_subplots(rows=rows, cols=columns, **spacing)
    for number, name in enumerate(names):
        place = {"row": number // columns + 1, "col": number % columns + 1}
        draw = _draw_bars if is_one_budget else _draw_lines
        draw(page, name, full, measured, place, number == 0)
    page.update_layout(
        template=TEMPLATE, height=height, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}, margin={"t": 60}
    )
    return page


def _draw_lines(
    page: Any,
    name: str,
    full: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    place: Mapping[str, int],
    is_in_legend: bool,
) -> None:
    """One line a method over the bytes; each stands in the legend once, and hides with it in all panels."""
    methods = list(dict.fromkeys(label(cell) for cell in measured))
    shift = shifts(methods)
    for number, method in enumerate(methods):
        points = [cell for cell in measured if label(cell) == method and name in cell["metrics"]]
        points.sort(key=lambda cell: cell["kept_bytes"])
        heights, (below, above) = values(points, name)
        page.add_scatter(
            x=[100 * cell["bytes_fraction"] * shift[method] for cell in points],
            y=heights,
            error_y={"array": above, "arrayminus": below, "thickness": 1, "width": 3},
            name=method,
            legendgroup=method,
            showlegend=is_in_legend,
            marker={"color": _colour(number), "symbol": _MARKERS[number % len(_MARKERS)], "size": 7},
            line={"width": 1.5},
            text=[_said(cell, name) for cell in points],
            hovertemplate="%{text}<extra></extra>",
            **place,
        )
    page.add_hline(y=scaled(full["metrics"][name]["value"], name), line={"dash": "dash", "width": 1}, **place)
    asked = sorted({round(100 * cell["asked_fraction"], 3) for cell in measured})
    ticks = {"tickvals": asked, "ticktext": [f"{share:g}" for share in asked]}
    page.update_xaxes(type="log", title=KEPT_LABEL, **ticks, **place)
    page.update_yaxes(**_scale(name), title=axis_label(name), **place)


def _draw_bars(
    page: Any,
    name: str,
    full: Mapping[str, Any],
    measured: Sequence[Mapping[str, Any]],
    place: Mapping[str, int],
    is_in_legend: bool,
) -> None:
    """One bar a method, best above, at the only budget; the methods' names stand beside the bars, in no legend."""
    cells = [cell for cell in measured if name in cell["metrics"]]
    cells.sort(key=lambda cell: cell["metrics"][name]["value"], reverse=name in LOWER_IS_BETTER)
    methods = [label(cell) for cell in measured]
    lengths, (below, above) = values(cells, name)
    page.add_bar(
        x=lengths,
        y=[label(cell) for cell in cells],
        orientation="h",
        error_x={"array": above, "arrayminus": below, "thickness": 1, "width": 3},
        marker={"color": [_colour(methods.index(label(cell))) for cell in cells]},
        showlegend=False,
        text=[_said(cell, name) for cell in cells],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
        **place,
    )
    page.add_vline(x=scaled(full["metrics"][name]["value"], name), line={"dash": "dash", "width": 1}, **place)
    budget = f" at budget {cells[0]['budget']}" if cells else ""
    page.update_xaxes(**_scale(name), title=f"{axis_label(name)}{budget}", **place)
    page.update_yaxes(ticksuffix=" ", **place)


def _scale(name: str) -> dict[str, Any]:
    return {"type": "log", "tickvals": _ROUND, "tickformat": "~s"} if name == "perplexity" else {"type": "linear"}


def _said(cell: Mapping[str, Any], name: str) -> str:
    """What appears under the pointer."""
    metric = cell["metrics"][name]
    low, high = (formatted(metric[end], name) for end in ("low", "high"))
    kept = f"{format_bytes(cell['kept_bytes'])}, {cell['bytes_fraction']:.1%} of a 16-bit cache"
    return f"{label(cell)} at {cell['budget']}: {formatted(metric['value'], name)} [{low}, {high}]<br>{kept}"


def _colour(number: int) -> str:
    from plotly.colors import qualitative

    colours = qualitative.D3
    return str(colours[number % len(colours)])


def _table(figures: Mapping[str, Any]) -> str:
    """Every cell that was measured; the best of each budget is bold."""
    cells = [cell for cell in figures["cells"] if not cell["shared_with_full"]]
    names, rows, bold = shown_metrics(cells), list[list[str]](), set[tuple[int, int]]()
    for budget, block in groupby(cells, key=lambda cell: cell["budget"]):
        group = list(block)
        bests = {name: best_value(group, name) for name in names}
        for cell in group:
            row = [f"{label(cell)}{'!' if cell['marks'] else ''}", budget]
            row += [f"{cell['bytes_fraction']:.1%}", f"{cell['kept_tokens_fraction']:.1%}", f"{cell['bits']:.3g}"]
            row.append(format_bytes(cell["kept_bytes"]))
            for name in names:
                metric = cell["metrics"].get(name)
                if metric is not None and metric["value"] == bests[name]:
                    bold.add((len(rows), len(row)))
                row.append("" if metric is None else _with_interval(metric, name))
            rows.append(row)
    title = f"{eval_title(figures)}; [95 % interval over the samples]; the best of a budget is bold"
    headings = ["method", "budget", "bytes kept", "tokens kept", "bits", "size", *(axis_label(name) for name in names)]
    return html_table(title, headings, rows, bold)


def _with_interval(metric: Mapping[str, float], name: str) -> str:
    return f"{formatted(metric['value'], name)} [{formatted(metric['low'], name)}, {formatted(metric['high'], name)}]"
