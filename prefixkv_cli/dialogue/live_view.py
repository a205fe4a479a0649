"""The cache as bars, one for each layer: what is kept of the picture, of the text and of what the model wrote.

Drawn as plain lines of text: a table of Rich takes three times as long, and the view must not slow the answer down.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text

from prefixkv.cache.usage import LayerUsage
from prefixkv_cli.tables.cache_report import CacheReport

SHORTEST_PAUSE_SECONDS = 0.1
"""The view is drawn at most so often."""
DRAWING_SHARE = 0.015
"""So much of the time, at most, goes into drawing: a view that takes long to draw is drawn less often."""

GLYPHS = {"picture": ("█", "green"), "text": ("▓", "blue"), "written": ("▒", "yellow"), "evicted": ("·", "dim")}
_LONGEST_BAR, _SHORTEST_BAR = 100, 8
_NUMBERS = 26
"""Columns beside the bar: the layer's number, kept / seen, the tokens kept in per cent."""


class Pace:
    """Says when the next drawing may be: not too often, and not at the cost of the answer."""

    def __init__(self) -> None:
        self._next_at = time.perf_counter() + SHORTEST_PAUSE_SECONDS

    def draw(self, drawing: Callable[[], None]) -> None:
        """Draw, if it is time to."""
        started = time.perf_counter()
        if started < self._next_at:
            return
        drawing()
        now = time.perf_counter()
        self._next_at = now + max(SHORTEST_PAUSE_SECONDS, (now - started) / DRAWING_SHARE)


def cache_view(report: CacheReport, width: int, rows: int) -> Text:
    """Bars of all layers with a legend and the totals; the totals alone where the bars do not fit.

    Args:
        report: what to show.
        width: columns that there are.
        rows: lines that there are.

    Returns:
        At most `rows` lines (at least the first of the totals), none wider than `width`.
    """
    totals = report.lines()
    layers = report.usage.layers
    columns = _columns(len(layers), width, rows - len(totals) - 1)
    view = Text(no_wrap=True, overflow="ellipsis")
    if columns:
        _add_bars(view, report, width // columns, -(-len(layers) // columns))
        _add_legend(view)
    for line in totals[: max(1, rows)]:
        view.append(line + "\n")
    view.rstrip()
    return view


def _columns(layers: int, width: int, rows: int) -> int:
    """How many bars go side by side; 0 where they do not fit."""
    if rows < 1 or layers == 0:
        return 0
    needed = -(-layers // rows)
    return needed if width // needed >= _NUMBERS + _SHORTEST_BAR else 0


def _add_bars(view: Text, report: CacheReport, width: int, rows: int) -> None:
    bar = min(_LONGEST_BAR, width - _NUMBERS)
    layers = list(zip(report.usage.layers, report.kinds, strict=True))
    for row in range(rows):
        for layer, kinds in layers[row::rows]:
            counts = (kinds.picture, kinds.text, kinds.generated)
            view.append(f"{layer.layer:>3} ", style="dim")
            for (glyph, style), length in zip(GLYPHS.values(), _lengths(counts, layer, bar), strict=True):
                view.append(glyph * length, style=style)
            share = layer.kept_tokens / layer.seen_tokens if layer.seen_tokens else 1.0
            numbers = f"{layer.kept_tokens}/{layer.seen_tokens}"
            view.append(f" {numbers:>12} {share:>4.0%}  ".ljust(_NUMBERS - 4))
        view.append("\n")


def _lengths(counts: tuple[int, int, int], layer: LayerUsage, bar: int) -> list[int]:
    """Columns of each part of a bar: ends are rounded, so the parts always fill it."""
    ends, total = [], 0
    for count in counts:
        total += count
        ends.append(round(bar * total / max(1, layer.seen_tokens)))
    return [end - start for start, end in zip([0, *ends], [*ends, bar], strict=True)]


def _add_legend(view: Text) -> None:
    view.append("    ")
    for name, (glyph, style) in GLYPHS.items():
        view.append(glyph, style=style)
        view.append(f" {name} ", style="dim")
    view.append("\n")
