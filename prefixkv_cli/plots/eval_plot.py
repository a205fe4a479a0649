"""A picture of an evaluation: quality against kept bytes, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv_cli.tables.eval_table import LABELS, shown_metrics

MEBIBYTE = 2**20
PANELS_A_ROW, PANEL_INCHES = 3, (4.6, 4.2)


def draw_evaluation(figures: Mapping[str, Any], path: Path) -> None:
    """Draw one panel for each metric; bars are the intervals of 95 %, the dashed line is the full cache.

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
    full = next(cell for cell in cells if cell["method"] == "full")
    measured = [cell for cell in cells if cell is not full and not cell["shared_with_full"]]
    names = shown_metrics(cells)
    columns = max(1, min(PANELS_A_ROW, len(names)))
    rows = max(1, -(-len(names) // columns))
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    picture, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    panels = list(grid.flat)
    for panel, name in zip(panels, names, strict=False):
        _draw_metric(panel, name, full, measured, matplotlib.colormaps["tab10"])
    for panel in panels[len(names) :]:
        panel.remove()
    if names:
        panels[0].legend(fontsize="small")
    picture.suptitle(f"{figures['settings']['model']['id']}: {figures['samples']} samples")
    try:
        picture.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(picture)


def _draw_metric(
    panel: Any, name: str, full: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], colours: Any
) -> None:
    for number, method in enumerate(dict.fromkeys(cell["method"] for cell in measured)):
        points = sorted(
            (cell for cell in measured if cell["method"] == method and name in cell["metrics"]),
            key=lambda cell: cell["kept_bytes"],
        )
        metrics = [point["metrics"][name] for point in points]
        # An interval may lie beside its value where the value is at the edge of what resampling can give.
        bars = [
            [max(0.0, metric["value"] - metric["low"]) for metric in metrics],
            [max(0.0, metric["high"] - metric["value"]) for metric in metrics],
        ]
        panel.errorbar(
            [point["kept_bytes"] / MEBIBYTE for point in points],
            [metric["value"] for metric in metrics],
            bars,
            color=colours(number % 10),
            marker="os^Dv"[number % 5],
            markersize=4,
            linewidth=1,
            capsize=2,
            label=method,
        )
    value, whole = full["metrics"][name]["value"], full["kept_bytes"] / MEBIBYTE
    panel.axhline(value, color="black", linestyle="--", linewidth=1, label="full")
    panel.plot([whole], [value], color="black", marker="*")
    panel.set(xlabel="kept, mean over the decode (MiB)", ylabel=LABELS[name], xlim=(0, 1.03 * whole))
    if name == "perplexity":
        panel.set_yscale("log")
