"""JSON files that say what they are: read with suspicion, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError

VERSION = 1
MOST_BYTES = 64 * 2**20
"""Files above this size are not read: a profile of a hundred layers has about 1 MB."""


def read_document(path: Path, kind: str) -> dict[str, Any]:
    """Read a file of one format.

    Args:
        path: the file.
        kind: value that its `format` must have.

    Returns:
        The whole object, its numbers finite.

    Raises:
        PrefixKVError: the file is missing, a link, too large, no JSON, or of another format or version.
    """
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != kind:
        raise PrefixKVError(f"{path} is not a {kind} file: its format is {found!r}")
    if content.get("version") != VERSION:
        raise PrefixKVError(
            f"{path} has version {content.get('version')!r}, and this program reads version {VERSION}: update prefixkv"
        )
    return content


def read_json(path: Path) -> Any:
    """Read any JSON file.

    Raises:
        PrefixKVError: the file is missing, a link, too large or no JSON with finite numbers.
    """
    refuse_link(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise PrefixKVError(f"{path} is a folder: give a JSON file")
        if size > MOST_BYTES:
            raise PrefixKVError(f"{path} is too large to be read ({size:,} bytes; at most {MOST_BYTES:,})")
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise PrefixKVError(f"there is no file {path}") from None
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PrefixKVError(f"{path} is not valid JSON: {error}") from None


def write_json(path: Path, content: Any) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, never a part.

    Args:
        path: the file; folders are made.
        content: plain values; numbers come back bit for bit.

    Raises:
        PrefixKVError: the place cannot be written, or is a link.
    """
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write any file so that a crash at any moment leaves the old one or the new one, never a part.

    Args:
        path: the file; folders are made.
        data: its content.

    Raises:
        PrefixKVError: the place cannot be written, or is a link.
    """
    refuse_link(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
        try:
            with temporary:
                temporary.write(data)
                temporary.flush()
                os.fsync(temporary.fileno())
            # Closed by now: Windows moves no open file.
            os.replace(temporary.name, path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None


def refuse_link(path: Path) -> None:
    """Raise a PrefixKVError where the path is a symbolic link: what it points to may lie anywhere."""
    if path.is_symlink():
        raise PrefixKVError(f"{path} is a symbolic link: give the file itself")


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a file may hold")
