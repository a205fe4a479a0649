"""A picture of what is kept of a picture: a heat map over all layers, and each layer by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.errors import PrefixKVError

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation
    from prefixkv.chat.kept_patches import KeptPatches

_COLUMNS = 8
"""Layers side by side."""


def draw_kept(conversation: Conversation, path: Path) -> None:
    """Paint on every picture which of its patches the layers keep.

    Args:
        conversation: between two answers.
        path: a .png file.

    Raises:
        PrefixKVError: there is no picture to paint on, or the file cannot be written.
    """
    from prefixkv.chat.kept_patches import kept_patches

    pictures = kept_patches(conversation)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = len(pictures[0].kept)
    columns, rows = min(_COLUMNS, layers), -(-layers // _COLUMNS)
    figure = pyplot.figure(figsize=(1.4 * columns + 1, (6 + 1.5 * rows) * len(pictures)), layout="compressed")
    parts = figure.subfigures(len(pictures), 1, squeeze=False)[:, 0]
    cache = conversation.cache
    title = f"{conversation.loaded.id}, method {cache.method.name}, budget {cache.budget.text}"
    try:
        for part, picture in zip(parts, pictures, strict=True):
            _draw(part, picture, title, columns, rows)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def _draw(part: Any, picture: KeptPatches, title: str, columns: int, rows: int) -> None:
    layers = len(picture.kept)
    above, below = part.subfigures(2, 1, height_ratios=(6, 1.5 * rows))
    axes = above.subplots()
    share = picture.kept.mean(axis=0)
    heat = _paint(axes, picture, share, share, "inferno", vmin=0, vmax=1)
    axes.set_title(f"{title}: {share.mean():.0%} of the picture kept")
    above.colorbar(heat, ax=axes, label=f"share of the {layers} layers that keep the patch")
    cells = below.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for layer, kept in enumerate(picture.kept):
        # What a layer has given up is darkened.
        _paint(cells[layer], picture, 1 - kept, 0.85 * (1 - kept), "gray_r", vmin=0, vmax=1)
        cells[layer].set_title(f"{layer}: {kept.mean():.0%}", fontsize="small")


def _paint(axes: Any, picture: KeptPatches, values: Any, strength: Any, colours: str, **limits: float) -> Any:
    """The picture, and over it a colour for each patch, the more opaque the stronger."""
    height, width = picture.pixels.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(picture.pixels, extent=extent)
    axes.axis("off")
    alpha = (0.25 + 0.6 * strength) if colours == "inferno" else strength
    return axes.imshow(values, cmap=colours, alpha=alpha, extent=extent, interpolation="nearest", **limits)
