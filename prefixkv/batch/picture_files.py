"""Which picture files an answer was given to: one that is replaced under its name makes another line.

Knows nothing of torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.picture_source import located

_ADDRESSES = ("http://", "https://", "data:", "drawn:")


def file_marks(sources: Sequence[str], folder: Path) -> list[dict[str, Any] | None]:
    """Size, time and content of each picture's file.

    Args:
        sources: of a line's pictures.
        folder: what relative paths start from.

    Returns:
        For each source `bytes`, `modified` (nanoseconds) and `sha256`; None for an address, or what is no file.
    """
    return [_mark(path) if path is not None else None for path in _paths(sources, folder)]


def are_the_same(marks: Any, sources: Sequence[str], folder: Path) -> bool:
    """Whether the files are still those of the marks; a file that is gone cannot be said to be another.

    The content is read only where size or time have changed.

    Args:
        marks: from `file_marks`, of the same sources.
        sources: of a line's pictures.
        folder: what relative paths start from.
    """
    if not isinstance(marks, list) or len(marks) != len(sources):
        return True
    for path, mark in zip(_paths(sources, folder), marks, strict=True):
        if path is None or not isinstance(mark, dict):
            continue
        try:
            status = path.stat()
        except (OSError, ValueError):
            continue
        if (status.st_size, status.st_mtime_ns) == (mark.get("bytes"), mark.get("modified")):
            continue
        found = _mark(path)
        if found is not None and found["sha256"] != mark.get("sha256"):
            return False
    return True


def _paths(sources: Sequence[str], folder: Path) -> list[Path | None]:
    paths: list[Path | None] = []
    for source in sources:
        try:
            paths.append(None if source.lower().startswith(_ADDRESSES) else located(source, folder)[0])
        except PrefixKVError:
            paths.append(None)
    return paths


def _mark(path: Path) -> dict[str, Any] | None:
    try:
        status = path.stat()
        content = path.read_bytes() if path.is_file() else None
    except (OSError, ValueError):
        return None
    if content is None:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns, "sha256": digest}
