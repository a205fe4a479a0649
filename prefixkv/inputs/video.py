"""A film as pictures, evenly spread over its length; read by PyAV, which comes with `prefixkv[video]`.

A model that reads several pictures reads them as it reads any others. Knows nothing of torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from prefixkv.errors import PictureTooLargeError, PrefixKVError
from prefixkv.inputs.images import check_file, check_shape
from prefixkv.inputs.picture_source import local_path

SUFFIXES = ("mp4", "m4v", "mov", "mkv", "webm", "avi")
"""How the names of films end."""
READERS = "mov,mp4,matroska,webm,avi"
"""FFmpeg's readers that may be used: none of them opens a second file."""
FRAMES = 8
"""Pictures of a film where nobody says how many."""
MOST_FRAMES = 256
_FILM = re.compile(
    rf"(?P<path>.+\.(?:{'|'.join(SUFFIXES)}))(?:#frames=(?P<count>\d{{1,9}}))?", re.IGNORECASE | re.DOTALL
)


def is_film(source: str) -> bool:
    """Whether a source ends as a film's file does; an address of the web never is one."""
    return _FILM.fullmatch(source) is not None and not re.match(r"(https?|data):", source, re.IGNORECASE)


def open_film(source: str) -> tuple[Image.Image, ...]:
    """Pictures of a film, in order.

    Args:
        source: a path or a file:// address; `#frames=16` behind it says how many pictures, else they are `FRAMES`.

    Returns:
        RGB, upright, no more than the film has; `info["name"]` is the path with the second.

    Raises:
        PrefixKVError: the file cannot be read, is no film, or PyAV is not installed.
    """
    match = _FILM.fullmatch(source)
    assert match is not None
    count = FRAMES if match["count"] is None else int(match["count"])
    if not 1 <= count <= MOST_FRAMES:
        raise PrefixKVError(f"video {source!r} asks for {count} pictures: give #frames=1 to #frames={MOST_FRAMES}")
    path = local_path(match["path"])
    check_file(path)
    try:
        import av
    except ImportError:
        raise PrefixKVError(
            f"video {str(path)!r} needs PyAV: install `prefixkv[video]` to read it, or give pictures of it"
        ) from None
    try:
        with path.open("rb") as file, av.open(file, options={"format_whitelist": READERS}) as film:
            found = tuple(_pictures(film, path, count))
    except PrefixKVError:
        raise
    # FFmpeg's errors are of many kinds, and its readers meet whatever a broken file holds.
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise PrefixKVError(f"video {str(path)!r} cannot be read ({said}): save or download it again") from error
    if not found:
        raise PrefixKVError(f"video {str(path)!r} has no pictures in it: give one that has")
    return found


def _pictures(film: Any, path: Path, count: int) -> Iterator[Image.Image]:
    """The pictures in the middle of so many parts of equal length."""
    stream = next(iter(film.streams.video), None)
    if stream is None:
        raise PrefixKVError(f"video {str(path)!r} holds no pictures, only sound: give a film")
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and stream.width * stream.height > most:
        raise PictureTooLargeError(
            f"video {str(path)!r} has {stream.width * stream.height:,} pixels, more than the limit of {most:,}"
        )
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (film.duration or 0) / 1e6
    start = float((stream.start_time or 0) * stream.time_base)
    last: float | None = None
    for part in range(count):
        frame = _frame_at(film, stream, start + seconds * (part + 0.5) / count)
        if frame is None or frame.time == last:
            continue
        last = frame.time
        image = frame.to_image().convert("RGB")
        turned = image.rotate(getattr(frame, "rotation", 0), expand=True)
        turned.info = {"name": f"{path} at {(frame.time or 0) - start:.2f} s"}
        check_shape(turned, turned.info["name"])
        yield turned


def _frame_at(film: Any, stream: Any, second: float) -> Any:
    """The picture that is seen at a second: the last one that begins by then, or the film's first."""
    film.seek(int(second / stream.time_base), stream=stream)
    seen = None
    for frame in film.decode(stream):
        if seen is not None and frame.time is not None and frame.time > second:
            break
        seen = frame
    return seen
