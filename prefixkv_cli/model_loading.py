"""Loading a model where people watch: a sign while it is loaded, a bar while it is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from prefixkv.models.download import Progress
from prefixkv.models.loading import Notify, load_model
from prefixkv.models.placement import Placement
from prefixkv_cli import output
from prefixkv_cli.collector import collect_as_usual, collect_seldom
from prefixkv_cli.escaping import visible
from prefixkv_cli.progress_bar import Update, progress_bar
from prefixkv_cli.waiting_sign import end_sign, show_sign

if TYPE_CHECKING:
    from prefixkv.models.loading import LoadedModel

Loaded = TypeVar("Loaded")


def load_shown(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    notify: Notify = output.notice,
    placement: Placement | None = None,
    shown: bool = True,
) -> LoadedModel:
    """Load a model as `load_model` does, and show in a terminal that it is being loaded.

    Args:
        name: as for `load_model`.
        device: as for `load_model`.
        dtype: as for `load_model`.
        notify: as for `load_model`.
        placement: as for `load_model`.
        shown: whether this process is the one that shows.
    """
    return loading_shown(name, lambda progress: load_model(name, device, dtype, notify, placement, progress), shown)


def loading_shown(name: str, load: Callable[[Progress], Loaded], shown: bool = True) -> Loaded:
    """Show in a terminal that a model is being loaded.

    Args:
        name: that the user has given.
        load: does it; is given what is called with the bytes of a download that are here and those of all.
        shown: whether this process is the one that shows.
    """
    with ExitStack() as shows:
        shows.callback(end_sign)
        bar: list[Update] = []

        def show_download(done: int, total: int) -> None:
            if not bar:
                end_sign()
                bar.append(shows.enter_context(progress_bar("downloading", total=total, shown=shown, in_bytes=True)))
            bar[0](completed=done)

        if shown and not output.is_quiet():
            show_sign(f"loading {visible(name)}")
        # Here, too: a model that another one replaces must not stay among what is never looked at again.
        collect_seldom()
        shows.callback(collect_as_usual)
        return load(show_download)
