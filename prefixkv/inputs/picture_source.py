"""A picture by what a user writes for it: the same source means the same picture wherever it is given.

Knows nothing of torch.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs import download
from prefixkv.inputs.images import check_file, decode_image, open_image

SUFFIXES = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif", "heic", "heif", "pdf")
"""How the names of picture files end."""
_WEB = re.compile(r"https?://", re.IGNORECASE)
_PAGE = re.compile(r"(?P<source>.+)#page=(?P<page>\d{1,6})", re.IGNORECASE | re.DOTALL)
_DRAWN = re.compile(r"drawn:(?P<kind>[a-z]{1,20}):(?P<seed>\d{1,18})", re.ASCII)
_DATA = re.compile(r"data:(?P<kind>[^,]*),(?P<content>.*)", re.IGNORECASE | re.DOTALL)


def open_source(source: str, folder: Path | None = None, fetch: Callable[[str], bytes] = download.fetch) -> Image.Image:
    """Read a picture, RGB.

    Args:
        source: a path, a file:// or http(s):// address, or a data: address with the picture in it; of a PDF file with
            several pages, `#page=2` behind it says which; or drawn:KIND:SEED, what `demo-scene` draws of that seed.
        folder: what a relative path starts from; the working directory where None.
        fetch: gets what is under an address.

    Raises:
        PrefixKVError: there is none that can be read; says why.
    """
    if _WEB.match(source):
        named = _PAGE.fullmatch(source)
        address, page = (named["source"], int(named["page"])) if named else (source, None)
        return decode_image(fetch(address), address, page)
    if source[:5].lower() == "data:":
        return _from_data(source)
    if (drawn := _DRAWN.fullmatch(source)) and not _is_there(_placed(Path(source), folder)):
        from prefixkv.demo.drawn import draw_picture

        image = draw_picture(drawn["kind"], int(drawn["seed"]))
        image.info["name"] = source
        return image
    return open_image(*located(source, folder))


def located(source: str, folder: Path | None = None) -> tuple[Path, int | None]:
    """The file of a picture, and which page of it is meant; None where none is named.

    Args:
        source: a path or a file:// address. A file whose own name ends like a page's number is that file.
        folder: what a relative path starts from; the working directory where None.

    Raises:
        PrefixKVError: see `local_path`.
    """
    named = _PAGE.fullmatch(source)
    if named is None or (source[:5].lower() != "file:" and _is_there(_placed(local_path(source), folder))):
        return _placed(local_path(source), folder), None
    return _placed(local_path(named["source"]), folder), int(named["page"])


def _placed(path: Path, folder: Path | None) -> Path:
    return path if folder is None else folder / path


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    # Too long for a name, or a NUL in it.
    except (OSError, ValueError):
        return False


def looks_like_picture(source: str) -> bool:
    """Whether a name ends as a picture's file does, or names a page of one."""
    named = _PAGE.fullmatch(source)
    return (named["source"] if named else source).lower().endswith(tuple(f".{suffix}" for suffix in SUFFIXES))


def check_source(source: str) -> None:
    """Refuse a path that leads to no file, without reading it; an address, or what is to be drawn, is not looked at.

    Raises:
        PrefixKVError: there is no such file, or it cannot be one.
    """
    if not (_WEB.match(source) or source[:5].lower() == "data:" or _DRAWN.fullmatch(source)):
        check_file(located(source)[0])


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
        return located(source)[0].is_file()
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
