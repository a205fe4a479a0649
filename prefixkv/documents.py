"""JSON files that say what they are: read with suspicion, written whole or not at all."""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError

VERSION = 1
MOST_BYTES = 64 * 2**20
"""Files above this size are not read."""
MOST_DOCUMENT_BYTES = 4 * 2**20
"""Nor are files of our own formats above this size: a profile of a hundred layers has about 1 MB."""
MOST_LINES_BYTES = 8 * 2**30
"""Nor files of lines, such as a batch's answers, above this one."""
MOST_NESTED = 64
"""Lists and objects inside each other; more of them could be read, but not be written again."""


def read_document(path: Path, kind: str, newest: int = VERSION) -> dict[str, Any]:
    """Read a file of one format.

    Args:
        path: the file.
        kind: value that its `format` must have.
        newest: version of the format that this program writes; it reads all up to this one.

    Returns:
        The whole object, its numbers finite.

    Raises:
        PrefixKVError: the file is missing, a link, too large, no JSON, or of another format or version.
    """
    content = read_json(path, MOST_DOCUMENT_BYTES)
    found = content.get("format") if isinstance(content, dict) else None
    if found != kind:
        said = f"its format is {found[:80]!r}" if isinstance(found, str) else "it names no format"
        raise PrefixKVError(f"{path} is not a {kind} file: {said}")
    require_version(content.get("version"), str(path), newest)
    return content


def require_version(found: Any, where: str, newest: int = VERSION) -> None:
    """Refuse a file of a format that this program does not know.

    Args:
        found: the file's `version`.
        where: the file, for the message.
        newest: version of the format that this program writes.

    Raises:
        PrefixKVError: the file is from a later version, or names none.
    """
    if type(found) is int and found > newest:
        number = found if found < 10**6 else "a large number"
        raise PrefixKVError(
            f"{where} is from a later version of prefixkv (its format is version {number}, this program reads "
            f"{newest}): update prefixkv"
        )
    if type(found) is not int or found < 1:
        allowed = "1" if newest == 1 else f"1 to {newest}"
        raise PrefixKVError(f"{where} names no version of its format: it must be {allowed}")


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Read any JSON file.

    Args:
        path: the file.
        most_bytes: size above which it is not read.

    Raises:
        PrefixKVError: the file is missing, a link, no file, too large, or no JSON with finite numbers and little depth.
    """
    data = read_regular(path, "a JSON file", most_bytes)
    try:
        return parse_json(data)
    except ValueError as error:
        raise PrefixKVError(f"{path} is not valid JSON: {error}") from None


def read_regular(path: Path, wanted: str, most_bytes: int) -> bytes:
    """Read a file whole, once it is known to be one and not too large.

    Args:
        path: the file; a pipe or a device could be read for ever.
        wanted: what the user is to give, for the message.
        most_bytes: size above which it is not read.

    Raises:
        PrefixKVError: the file is missing, a link, no regular file, or too large.
    """
    require_regular(path, wanted, most_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be read: {error.strerror}") from None


def require_regular(path: Path, wanted: str, most_bytes: int) -> int:
    """The size of a regular file, in bytes; as `read_regular`, without reading it."""
    try:
        refuse_link(path)
        facts = path.stat()
    except FileNotFoundError:
        raise PrefixKVError(f"there is no file {path}") from None
    # A name with a NUL in it is none that a file can have.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PrefixKVError(f"{path} cannot be read: {reason}") from None
    if stat.S_ISDIR(facts.st_mode):
        raise PrefixKVError(f"{path} is a folder: give {wanted}")
    if not stat.S_ISREG(facts.st_mode):
        raise PrefixKVError(f"{path} is no regular file: give {wanted}")
    if facts.st_size > most_bytes:
        raise PrefixKVError(f"{path} is too large to be read ({facts.st_size:,} bytes; at most {most_bytes:,})")
    return facts.st_size


def encoding_of(data: bytes) -> str:
    """How a text is written: UTF-8 unless its first bytes say UTF-16 or UTF-32, as Windows programs write them.

    Args:
        data: the text's bytes.

    Returns:
        Python's name of a codec, which takes a mark at the beginning away.
    """
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Half of the bytes of Latin letters in UTF-16 are zeros.
    if b"\0" in data[:2]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    return "utf-8-sig"


def read_text(path: Path) -> str:
    """Read a text, see `encoding_of`.

    Args:
        path: a file, or a pipe.

    Raises:
        PrefixKVError: the file cannot be read, or is neither.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise PrefixKVError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    encoding = encoding_of(data)
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        name = f"{encoding[:6].upper()}, and broken" if encoding != "utf-8-sig" else "no UTF-8"
        raise PrefixKVError(f"{path} cannot be read as text: it is {name} ({error.reason}): save it as UTF-8") from None


def parse_json(text: bytes | str) -> Any:
    """Plain values that can be written again: numbers are finite, and nothing is nested deeper than `MOST_NESTED`.

    Raises:
        ValueError: the text is no such JSON.
    """
    try:
        content = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"lists and objects are nested more than {MOST_NESTED} deep") from None
    _require_shallow(content)
    return content


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
    # Here, as the hash below: who only reads, such as who asks a server, loads neither.
    import tempfile

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
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that a file may hold")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a number that a file may hold")
    return number


def _require_shallow(content: Any) -> None:
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(MOST_NESTED + 1):
        within = (value.values() if isinstance(value, dict) else value for value in level)
        level = [part for parts in within for part in parts if isinstance(part, (dict, list))]
        if not level:
            return
    raise ValueError(f"lists and objects are nested more than {MOST_NESTED} deep")
