"""Which model `--model auto` is for what is asked: the demo for what is drawn here, a real one for everything else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from prefixkv.errors import PrefixKVError
from prefixkv_cli import output

if TYPE_CHECKING:
    from PIL.Image import Image


def model_for_pictures(name: str, device: str, pictures: Iterable[Image]) -> str:
    """The model that can answer about pictures.

    Args:
        name: as the user gave it; any but `auto` is left alone.
        device: as for `load_model`.
        pictures: RGB, `info["name"]` as the user calls each; looked at until one is not drawn here. With none of them
            `auto` stays `auto`.

    Raises:
        PrefixKVError: the real model that fits is not here, and cannot be had, or nobody can be asked, or says no.
    """
    if name != "auto":
        return name
    from prefixkv.demo.drawn import strange_pictures

    are_there = False
    for picture in pictures:
        are_there = True
        if strange := strange_pictures([picture]):
            return real_model_for(f"{strange[0]} is no drawn scene or document", device)
    return "demo" if are_there else name


def model_for_data(
    name: str,
    device: str,
    pictures: Iterator[Image],
    is_drawn: bool,
    data: str,
    notify: Callable[[str], None] = output.notice,
) -> str:
    """The model that can be measured on samples; warns where the demo model knows nothing of them.

    Args:
        name: as the user gave it.
        device: as for `load_model`.
        pictures: of the samples, RGB; looked at until one is not drawn here.
        is_drawn: whether the samples are drawn here.
        data: what the user calls them.
        notify: called with the warning.

    Raises:
        PrefixKVError: as for `model_for_pictures`.
    """
    if is_drawn or name not in ("auto", "demo"):
        return "demo" if name == "auto" else name
    from prefixkv.demo.drawn import strange_pictures, strangeness

    if (first := next(pictures, None)) is None:
        return real_model_for(f"there are no drawn scenes or documents in {data}", device) if name == "auto" else name
    strange = next((names for picture in chain([first], pictures) if (names := strange_pictures([picture]))), None)
    if strange is None:
        return "demo"
    if name == "auto":
        return real_model_for(f"{strange[0]} is no drawn scene or document", device)
    notify(strangeness(strange))
    return name


def real_model_for(what: str, device: str) -> str:
    """A real model that fits this machine: one that was downloaded, or one that the user lets be downloaded.

    Args:
        what: why the demo model will not do, to begin a sentence with.
        device: as for `load_model`.

    Raises:
        PrefixKVError: as for `model_for_pictures`.
    """
    from prefixkv.models.choice import real_model
    from prefixkv.models.download import wanted_files
    from prefixkv.models.hub import look_up
    from prefixkv.models.loading import find_device

    real, is_here = real_model(find_device(device))
    if is_here:
        return real.id
    why = f"{what}, and the bundled demo model knows nothing else"
    try:
        size = sum(wanted_files(look_up(real.id)).values())
    except PrefixKVError as error:
        raise PrefixKVError(f"{why}; {error}") from error
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
        raise PrefixKVError(
            f"{why}; {real.id}, which fits this machine, is a download of {size / 1e9:.1f} GB: run "
            f"`hf download {real.id}` once, or give --model {real.id} to have it downloaded"
        )
    output.notice(f"{why}; {real.id} fits this machine: {size / 1e9:.1f} GB, downloaded once")
    if not output.agrees("Download it?"):
        raise PrefixKVError("nothing was downloaded: give another --model, or --model demo with a drawn scene")
    return real.id
