"""Where a picture comes from: a path, an address, stdin, the clipboard, or a line that it was dropped in."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from prefixkv.errors import PrefixKVError

if TYPE_CHECKING:
    from PIL.Image import Image

STDIN, CLIPBOARD = "-", "clipboard"
SOURCES_HELP = (
    "a path, a file://, http(s):// or data: address, - for stdin, or clipboard; a video is 8 pictures, or as "
    "clip.mp4#frames=N says"
)

_WORD = re.compile(r"""'(?P<single>[^']+)'|"(?P<double>[^"]+)"|(?P<plain>(?:\\.|[^\s'"\\])+)""")


def open_picture(source: str) -> Image:
    """Read a picture from wherever it is.

    Args:
        source: see `SOURCES_HELP`.

    Raises:
        PrefixKVError: there is none that can be read.
    """
    from prefixkv.inputs.images import decode_image
    from prefixkv.inputs.picture_source import open_source

    if source == STDIN:
        return decode_image(_stdin_bytes(), "stdin")
    if source == CLIPBOARD:
        return _clipboard_picture()
    return open_source(source)


def open_pictures(source: str) -> tuple[Image, ...]:
    """Read a picture, or the pictures of a film, from wherever it is.

    Args:
        source: see `SOURCES_HELP`.

    Raises:
        PrefixKVError: there is none that can be read.
    """
    from prefixkv.inputs.video import is_film, open_film

    return open_film(source) if is_film(source) else (open_picture(source),)


def dropped_pictures(line: str) -> tuple[list[str], str]:
    """Take the pictures out of a line, as terminals paste them when files are dragged in.

    A word is a picture where it is quoted, escaped or plain, ends as a picture's file does, and is a file that exists;
    a file:// address, or a path from the root or the home folder, always is.

    Args:
        line: what the user typed or dropped.

    Returns:
        The pictures' sources, and the rest of the line.
    """
    from prefixkv.inputs.picture_source import is_file, looks_like_picture
    from prefixkv.inputs.video import is_film

    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        source = match["single"] or match["double"] or re.sub(r"\\(.)", r"\1", match["plain"])
        if not looks_like_picture(source) and not is_film(source):
            return match[0]
        anchored = source.startswith(("/", "~/")) or source.lower().startswith("file:")
        if anchored or is_file(source):
            found.append(source)
            return " "
        return match[0]

    rest = _WORD.sub(take, line)
    return found, " ".join(rest.split()) if found else line


def _stdin_bytes() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise PrefixKVError("image - is read from stdin, and that is the keyboard: pipe a picture in")
    return sys.stdin.buffer.read()


def _clipboard_picture() -> Image:
    from PIL import Image, ImageGrab

    from prefixkv.inputs.images import decode_image, open_image

    try:
        held = ImageGrab.grabclipboard()
    # Pillow raises errors of many kinds where a machine has no clipboard, or no program to read it.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PrefixKVError(f"the clipboard cannot be read ({reason}): give a file instead") from error
    if isinstance(held, list) and held:
        return open_image(held[0])
    if not isinstance(held, Image.Image):
        raise PrefixKVError("there is no picture in the clipboard: copy one, or give a file")
    import io

    data = io.BytesIO()
    held.save(data, format="PNG")
    return decode_image(data.getvalue(), CLIPBOARD)
