"""The page of what is kept of pictures: each under sliders over layers and budgets, and the answers below."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.html_table import html_table
from prefixkv_cli.reports.kept_moment import KeptMoment, kept_moments
from prefixkv_cli.reports.page import TEMPLATE, figure, heading, notes, wide, write_page

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation

_PICTURE_PIXELS, _SLIDER_PIXELS = 560, 90
"""Height of a picture on the page, and of a slider."""
_VEIL = ((0.0, "rgba(10, 10, 14, 0.8)"), (1.0, "rgba(10, 10, 14, 0)"))
"""Colours of 0 and of 100 % kept: what is evicted lies in the dark."""
_FOLLOW_SLIDERS = """
var figure = document.getElementById('{plot_id}');
figure.on('plotly_sliderchange', function () {
  var name = figure.layout.sliders.map(function (slider) { return slider.active || 0; }).join(' ');
  var atOnce = {mode: 'immediate', transition: {duration: 0}, frame: {duration: 0, redraw: true}};
  // A frame that the next one overtakes is given up, which is no error.
  Plotly.animate(figure, [name], atOnce).catch(function () {});
});
"""
"""Shows the frame that is named after the places of all sliders."""


def write_kept(conversation: Conversation, path: Path) -> None:
    """Write the page: what the cache keeps of its pictures, and what it would keep under other budgets.

    The last question is asked again under each of them, on a cache of its own.

    Args:
        conversation: between two answers; it stays as it is.
        path: a .html file.

    Raises:
        PrefixKVError: there is no picture to show, or the file cannot be written.
    """
    moments = kept_moments(conversation)
    own = next(place for place, moment in enumerate(moments) if moment.is_own)
    question = conversation.history[-1][0].prompt if conversation.history else "no question yet"
    cache = conversation.cache
    parts = [notes([f"{conversation.loaded.id}, method {cache.method.name}, codec {cache.codec.name}."])]
    for number in range(len(moments[own].pictures)):
        if len(moments[own].pictures) > 1:
            parts.append(heading(f"Picture {number + 1}"))
        parts.append(figure(_under_sliders(moments, number, own), f"picture-{number + 1}", _FOLLOW_SLIDERS))
    rows = [[f"{moment.budget}{' (yours)' if moment.is_own else ''}", *moment.row] for moment in moments]
    columns = ("budget", "tokens", "stored in", "bytes of a 16-bit cache", "answer")
    parts += [
        notes(["Dark: evicted. Between: kept by some of the kv heads, or by some of the layers."]),
        heading("The same question under each budget"),
        wide(html_table("All layers together.", columns, rows), ends_in_text=True),
    ]
    write_page(path, f"What is kept: {question}", parts)


def _under_sliders(moments: Sequence[KeptMoment], picture: int, own: int) -> Any:
    """One picture with a frame for each place of the two sliders, of which the first one's is all layers."""
    from plotly.graph_objects import Figure, Frame, Heatmap

    patches = moments[own].pictures[picture]
    layers: list[int | None] = [None, *range(len(patches.kept))]
    hover = "row %{y}, column %{x}: %{z} % of its entries kept<extra></extra>"
    bar = {"title": {"text": "kept (%)", "side": "right"}, "outlinecolor": "#444", "outlinewidth": 1}
    veil = Heatmap(z=_per_cent(moments[own], picture, None), zmin=0, zmax=100, colorscale=_VEIL, colorbar=bar)
    frames = [
        Frame(
            name=f"{place} {budget}",
            data=[{"type": "heatmap", "z": _per_cent(moment, picture, layer)}],
            layout={"title": {"text": moment.said(picture, layer)}},
        )
        for budget, moment in enumerate(moments)
        for place, layer in enumerate(layers)
    ]
    drawn = Figure(veil.update(hovertemplate=hover), frames=frames)
    _, rows, columns = patches.kept.shape
    height, width = patches.pixels.shape[:2]
    shape = {"constrain": "domain", "visible": False}
    drawn.update_layout(
        template=TEMPLATE,
        height=_PICTURE_PIXELS + 2 * _SLIDER_PIXELS,
        margin={"t": 50, "b": 2 * _SLIDER_PIXELS - 20},
        title={"text": moments[own].said(picture, None), "font": {"size": 15}},
        xaxis={**shape, "range": [-0.5, columns - 0.5]},
        yaxis={
            **shape,
            "range": [rows - 0.5, -0.5],
            "scaleanchor": "x",
            "scaleratio": height * columns / (width * rows),
        },
        images=[_backdrop(patches.pixels, rows, columns)],
        sliders=[
            _slider("layer ", ["all" if layer is None else str(layer) for layer in layers], 0, 20),
            _slider("budget ", [moment.budget for moment in moments], own, 20 + _SLIDER_PIXELS),
        ],
    )
    return drawn


def _per_cent(moment: KeptMoment, picture: int, layer: int | None) -> Any:
    """(rows, columns), uint8: share of the kv heads, or of all layers' kv heads, that keep a patch."""
    kept = moment.pictures[picture].kept
    share = kept.mean(axis=0) if layer is None else kept[layer]
    return (100 * share).round().astype("uint8")


def _slider(prefix: str, labels: Sequence[str], active: int, top: int) -> dict[str, Any]:
    """A slider that changes nothing by itself: the page's script looks at all of them."""
    steps = [{"label": label, "method": "skip"} for label in labels]
    return {"active": active, "currentvalue": {"prefix": prefix}, "pad": {"t": top}, "steps": steps}


def _backdrop(pixels: Any, rows: int, columns: int) -> dict[str, Any]:
    """The picture below the heat map, stretched over its patches."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return {
        "source": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}",
        "x": -0.5,
        "y": -0.5,
        "sizex": columns,
        "sizey": rows,
        "xref": "x",
        "yref": "y",
        "sizing": "stretch",
        "layer": "below",
    }
