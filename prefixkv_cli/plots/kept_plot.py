"""A picture of what is kept of a picture: it, a heat map over all layers beside it, and each layer by itself."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.errors import PrefixKVError

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation
    from prefixkv.chat.kept_patches import KeptPatches

_COLUMNS = 8
"""Layers side by side."""
_LARGE, _SMALL = 4.6, 1.5
"""Inches of the two large panels' height and of a row of layers."""
_TITLE_WIDTH = 100
"""Characters of a line of the title."""


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
    height = (_LARGE + _SMALL * rows) * len(pictures) + 0.8
    figure = pyplot.figure(figsize=(1.35 * _COLUMNS, height), layout="constrained")
    figure.suptitle(_title(conversation), fontsize="medium")
    figure.supxlabel("layers: light = kept, grey = kept by some of the kv heads, black = evicted", fontsize="small")
    blocks: Any = figure.add_gridspec(len(pictures), 1)
    try:
        for block, picture in zip(blocks, pictures, strict=True):
            _draw(figure, block, picture, columns, rows)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def _title(conversation: Conversation) -> str:
    """The last question with its answer, and under which model, method and budget it was asked."""
    cache, lines = conversation.cache, []
    if conversation.history:
        turn, answer = conversation.history[-1]
        lines += textwrap.wrap(turn.prompt, _TITLE_WIDTH) + textwrap.wrap(
            textwrap.shorten(f"→ {answer.text}", 3 * _TITLE_WIDTH, placeholder=" …"), _TITLE_WIDTH
        )
    stored = ", ".join((f"budget {cache.budget.text}", *conversation.usage().words()))
    lines.append(f"{conversation.loaded.id}, method {cache.method.name}, {stored}")
    # A dollar sign would begin a formula.
    return "\n".join(lines).replace("$", r"\$")


def _draw(figure: Any, block: Any, picture: KeptPatches, columns: int, rows: int) -> None:
    layers = len(picture.kept)
    large, small = block.subgridspec(2, 1, height_ratios=(_LARGE, _SMALL * rows))
    plain, heated = (figure.add_subplot(part) for part in large.subgridspec(1, 2))
    _show(plain, picture)
    plain.set_title("as the model sees it", fontsize="medium")
    share = picture.kept.mean(axis=0)
    heat = _paint(heated, picture, share, 0.15 + 0.5 * share, "inferno")
    heated.set_title(f"{share.mean():.0%} of its tokens kept, mean of {layers} layers", fontsize="medium")
    figure.colorbar(heat, ax=heated, label="share of layers and kv heads that keep the token", shrink=0.9)
    parts = small.subgridspec(rows, columns)
    for layer, kept in enumerate(picture.kept):
        axes = figure.add_subplot(parts[layer // columns, layer % columns])
        # What a layer has given up is darkened: the darker, the more of its kv heads have.
        _paint(axes, picture, 1 - kept, 0.85 * (1 - kept), "gray_r")
        axes.set_title(f"layer {layer}: {kept.mean():.0%}", fontsize="small")


def _show(axes: Any, picture: KeptPatches) -> tuple[int, int, int, int]:
    height, width = picture.pixels.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(picture.pixels, extent=extent)
    axes.axis("off")
    return extent


def _paint(axes: Any, picture: KeptPatches, values: Any, strength: Any, colours: str) -> Any:
    """The picture, and over it a colour for each patch, the more opaque the stronger."""
    extent = _show(axes, picture)
    return axes.imshow(values, cmap=colours, alpha=strength, extent=extent, interpolation="nearest", vmin=0.0, vmax=1.0)
