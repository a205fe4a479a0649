"""A picture of a benchmark: how time and memory grow with the context, and a step with the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError

GIB = 2**30


def draw_benchmark(record: Mapping[str, Any], path: Path) -> None:
    """Draw four panels: prefill time and peak memory over the context, and a step over the context and over the rows.

    Args:
        record: as `run_benchmark` gives it; a line needs two points at least.
        path: a .png or .svg file.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    cells = [cell for cell in record["cells"] if not cell["failure"]]
    single = [cell for cell in cells if cell["batch"] == 1]
    several = _at_the_widest_context(cells)
    context, rows = "context_tokens", "batch"
    title = f"{record['model']} on {record['device']}"
    _draw(panels[0][0], single, context, lambda cell: cell["prefill_ms"], "prefill (ms), one row")
    _draw(panels[0][1], single, context, _peak_gib, "memory of the prefill above the weights (GiB)")
    _draw(panels[1][0], single, context, lambda cell: cell["step_ms"], "decode step (ms), one row", log=True)
    _draw(panels[1][1], several, rows, lambda cell: cell["step_ms"], "decode step (ms)", log=True)
    panels[1][1].set_title(f"{several[0][context]} tokens" if several else "")
    figure.suptitle(title)
    try:
        figure.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


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
    for name, points in lines.items():
        places, figures = zip(*sorted(points), strict=True)
        style = "--" if name == "transformers" else "-"
        panel.plot(places, figures, style, marker="o", markersize=3, label=name)
    panel.set(xlabel="tokens of the prompt" if axis == "context_tokens" else "rows", ylabel=label)
    panel.set_yscale("log") if log else panel.set_ylim(bottom=0)
    panel.legend(fontsize="small")


def _peak_gib(cell: Mapping[str, Any]) -> float | None:
    peak = cell["prefill_peak_bytes"]
    return None if peak is None else peak / GIB


def _at_the_widest_context(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of the context with the most different numbers of rows."""
    contexts = sorted({cell["context_tokens"] for cell in cells})
    blocks = [[cell for cell in cells if cell["context_tokens"] == context] for context in contexts]
    return max(blocks, key=lambda block: len({cell["batch"] for cell in block}), default=[])
