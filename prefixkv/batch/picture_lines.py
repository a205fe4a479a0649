"""The lines of a batch whose pictures are given one by one, all with the same questions. Knows nothing of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefixkv.batch.lines import Line, line_digest
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.inputs.picture_source import check_source, local_path, looks_like_picture

_LINES = re.compile(r".*\.(jsonl|ndjson|json)", re.IGNORECASE)


def picture_lines(sources: Sequence[str], prompts: Sequence[str]) -> list[Line]:
    """A line for each question about each picture; its label is the picture as it was given.

    Args:
        sources: paths or addresses; of a folder all its pictures are meant, in the order of their names.
        prompts: at least one.

    Raises:
        OptionError: a question is empty, there is no picture, or a file of lines is among them.
        PrefixKVError: a picture is not there, or a folder has none.
    """
    if any(not prompt.strip() for prompt in prompts):
        raise OptionError("the prompt is empty: give some text after --prompt")
    if not sources:
        raise OptionError("there is no picture to ask about: give some, as in `prefixkv batch photos/*.jpg -p TEXT`")
    if file := next((source for source in sources if _LINES.fullmatch(source)), None):
        raise OptionError(f"{file!r} is no picture: leave --prompt out to answer the lines of a file")
    pictures = [picture for source in sources for picture in _expanded(source)]
    asked = [(picture, prompt) for picture in pictures for prompt in prompts]
    return [
        Line(number, line_digest(prompt, [picture], {}), prompt, (picture,), picture)
        for number, (picture, prompt) in enumerate(asked, start=1)
    ]


def _expanded(source: str) -> list[str]:
    """The pictures that a source means."""
    try:
        folder = local_path(source)
        is_folder = folder.is_dir()
    # An address may be too long for a name.
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        check_source(source)
        return [source]
    found = sorted(str(path) for path in folder.iterdir() if path.is_file() and looks_like_picture(path.name))
    if not found:
        raise PrefixKVError(f"folder {source!r} holds no picture: give one that does, or the files themselves")
    return found
