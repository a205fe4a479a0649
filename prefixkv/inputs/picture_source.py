"""A picture by what a user writes for it: the same source means the same picture wherever it is given.

Knows nothing of torch.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.download import fetch
from prefixkv.inputs.images import check_file, decode_image, open_image

SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
"""How the names of picture files end."""
_WEB = re.compile(r"https?://", re.IGNORECASE)
_DATA = re.compile(r"data:(?P<kind>[^,]*),(?P<content>.*)", re.IGNORECASE | re.DOTALL)


def open_source(source: str, folder: Path | None = None) -> Image.Image:
    """Read a picture, RGB.

    Args:
        source: a path, a file:// or http(s):// address, or a data: address with the picture in it.
        folder: what a relative path starts from; the working directory where None.

    Raises:
        PrefixKVError: there is none that can be read; says why.
    """
    if _WEB.match(source):
        return decode_image(fetch(source), source)
    if source[:5].lower() == "data:":
        return _from_data(source)
    path = local_path(source)
    return open_image(path if folder is None else folder / path)


def check_source(source: str) -> None:
    """Refuse a path that leads to no file, without reading it; an address is not looked at.

    Raises:
        PrefixKVError: there is no such file, or it cannot be one.
    """
    if not _WEB.match(source) and source[:5].lower() != "data:":
        check_file(local_path(source))


def local_path(source: str) -> Path:
    """The path that a path or a file:// address means; `~` is the home folder.

    Raises:
        PrefixKVError: it names the home folder of a user who has none.
    """
    path = Path(unquote(urlsplit(source).path)) if source[:5].lower() == "file:" else Path(source)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PrefixKVError(f"image {source!r} does not exist: there is no home folder of that name") from error


def is_file(source: str) -> bool:
    """Whether a source is a file on this machine; false for what can be no path."""
    try:
        return local_path(source).is_file()
    # Too long for a name, or a NUL in it.
    except (OSError, ValueError, PrefixKVError):
        return False


def _from_data(source: str) -> Image.Image:
    match = _DATA.fullmatch(source)
    if match is None:
        raise PrefixKVError("the image's data: address has no comma: give data:image/png;base64,CONTENT")
    name = f"data:{match['kind'][:40]},..."
    content = unquote_to_bytes(match["content"])
    if match["kind"].lower().endswith(";base64"):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except ValueError as error:
            raise PrefixKVError(f"image {name!r} is no base64 ({error}): encode the file again") from error
    return decode_image(content, name)
