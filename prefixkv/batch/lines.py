"""The lines of a batch file: one JSON object each, with a prompt and its pictures. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.picture_source import open_source

SHAPE = 'give an object such as {"image": "cat.jpg", "prompt": "What is this?"}'


@dataclass(frozen=True)
class Line:
    """One question, or what is wrong with its line.

    Attributes:
        number: of the line in the file, from 1 on.
        digest: of the line's text, so that a changed line is asked again.
        prompt: the question.
        sources: paths, absolute or from the file's folder, or http(s) addresses.
        label: the line's own `id`, if it has one.
        error: why the line cannot be asked; None for a good one.
    """

    number: int
    digest: str
    prompt: str = ""
    sources: tuple[str, ...] = ()
    label: Any = None
    error: str | None = None

    def pictures(self, folder: Path) -> tuple[Image.Image, ...]:
        """Open the line's pictures, RGB.

        Args:
            folder: what relative paths start from.

        Raises:
            PrefixKVError: one cannot be read; says why.
        """
        return tuple(open_source(source, folder) for source in self.sources)


def read_lines(path: Path) -> list[Line]:
    """All lines of a file but the empty ones; a bad line does no harm to the others.

    Raises:
        PrefixKVError: the file cannot be read, or holds no line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be read: {error.strerror}") from None
    lines = list(_parsed(data))
    if not lines:
        raise PrefixKVError(f"{path} holds no line: {SHAPE} on each")
    return lines


def _parsed(data: bytes) -> Iterator[Line]:
    for number, raw in enumerate(data.splitlines(), start=1):
        if not raw.strip():
            continue
        digest = hashlib.sha256(raw.strip()).hexdigest()[:16]
        try:
            yield _line(json.loads(raw), number, digest)
        except (ValueError, RecursionError):
            yield Line(number, digest, error=f"this is no JSON: {SHAPE}")
        except PrefixKVError as error:
            yield Line(number, digest, error=str(error))


def _line(content: Any, number: int, digest: str) -> Line:
    if not isinstance(content, dict):
        raise PrefixKVError(f"this is no JSON object: {SHAPE}")
    prompt, image = content.get("prompt"), content.get("image", content.get("images", []))
    label = content.get("id")
    sources = [image] if isinstance(image, str) else [] if image is None else image
    if not isinstance(prompt, str) or not prompt.strip():
        return Line(number, digest, label=label, error=f"the prompt is {'empty' if prompt else 'missing'}: {SHAPE}")
    if not isinstance(sources, list) or not all(isinstance(source, str) and source for source in sources):
        return Line(number, digest, label=label, error=f"image is {image!r}: give a path, or a list of paths")
    return Line(number, digest, prompt, tuple(sources), label)
