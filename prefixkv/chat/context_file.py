"""The file of a saved context: safetensors whose metadata holds a JSON head and a digest of the whole file.

The head can be read without the tensors, and without torch.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import psutil

from prefixkv.documents import parse_json, read_regular, require_regular, require_version
from prefixkv.errors import PrefixKVError

FORMAT, VERSION = "prefixkv-context", 4
COUNTED_VERSION = 3
"""From which on bytes are counted as a 16-bit cache's."""
HEAD_KEY, DIGEST_KEY = "prefixkv", "prefixkv_sha256"
UNSEALED = "0" * 64
"""Stands in the place of the digest while the digest is taken."""

MOST_HEAD_BYTES = 16 * 2**20
_MOST_FILE_BYTES = 2**40
_DIGEST = re.compile(rb'"' + DIGEST_KEY.encode() + rb'":"([0-9a-f]{64})"')


def seal(data: bytes) -> bytes:
    """Put the digest of everything else into a file's content.

    Args:
        data: safetensors with `UNSEALED` as its digest.
    """
    start, end = _digest_place(data)
    return data[:start] + _digest_of(data, start, end).encode() + data[end:]


def read_sealed(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a file and check that not one byte of it has changed since it was written.

    Returns:
        Its head and the whole content.

    Raises:
        PrefixKVError: the file is missing, no context, or changed.
    """
    header = _read_header(path)
    head = _head(header[8:], path)
    data = _read(path, len(header) + _tensor_bytes(header[8:], path))
    if data[: len(header)] != header:
        raise PrefixKVError(f"context {path} is being written: read it again")
    start, end = _digest_place(data)
    if data[start:end].decode() != _digest_of(data, start, end):
        raise PrefixKVError(f"context {path} has changed since it was saved: save it again with `prefixkv save`")
    return head, data


def read_head(path: Path) -> dict[str, Any]:
    """Read what a file says of itself; the rest is neither read nor checked.

    Raises:
        PrefixKVError: the file is missing or no context.
    """
    return _head(_read_header(path)[8:], path)


def _read_header(path: Path) -> bytes:
    """The length of the header and the header itself."""
    if not path.exists() and not path.is_symlink():
        raise PrefixKVError(f"there is no context {path}: `prefixkv contexts list` shows those there are")
    require_regular(path, "a context's file", _MOST_FILE_BYTES)
    try:
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(_header_length(length, path))
    except OSError as error:
        raise PrefixKVError(f"context {path} cannot be read: {error.strerror}") from None


def _read(path: Path, expected_bytes: int) -> bytes:
    """The whole file, of the size that its header says: no more than there is memory for is read."""
    size = require_regular(path, "a context's file", _MOST_FILE_BYTES)
    if size != expected_bytes:
        raise PrefixKVError(
            f"context {path} has changed since it was saved (it has {size:,} bytes and not {expected_bytes:,}): "
            "save it again with `prefixkv save`"
        )
    free = psutil.virtual_memory().available
    if size > free:
        raise PrefixKVError(f"context {path} has {size:,} bytes, and {free:,} bytes of memory are free: free some more")
    return read_regular(path, "a context's file", _MOST_FILE_BYTES)


def _tensor_bytes(header: bytes, path: Path) -> int:
    """Bytes of all tensors together, as the header says."""
    try:
        entries = [facts for name, facts in parse_json(header).items() if name != "__metadata__"]
        ends = [facts["data_offsets"][1] for facts in entries]
        if all(type(end) is int and 0 <= end <= _MOST_FILE_BYTES for end in ends):
            return max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise PrefixKVError(f"{path} is no context: it is not a safetensors file")


def _header_length(data: bytes, path: Path) -> int:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= MOST_HEAD_BYTES:
        raise PrefixKVError(f"{path} is no context: it is not a safetensors file")
    return length


def _head(header: bytes, path: Path) -> dict[str, Any]:
    try:
        head = parse_json(parse_json(header)["__metadata__"][HEAD_KEY])
    except (ValueError, KeyError, TypeError):
        raise PrefixKVError(f"{path} is no context: it was not written by `prefixkv save`, or it is cut off") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT or len(_DIGEST.findall(header)) != 1:
        raise PrefixKVError(f"{path} is no context: it was not written by `prefixkv save`")
    require_version(head.get("version"), str(path), VERSION)
    from prefixkv.schemas.context import ContextSchema
    from prefixkv.schemas.field import parse

    parsed = parse(ContextSchema, head, f"context {path} is not whole")
    if head["version"] < COUNTED_VERSION and parsed.model.dtype == "float32":
        # Older formats counted the bytes of the model's own dtype; what is packed takes what it takes.
        sizes = {
            "full_bytes": parsed.full_bytes // 2,
            "kept_bytes": parsed.kept_bytes // (2 if parsed.bits is None else 1),
        }
        head |= sizes
    return head


def _digest_place(data: bytes) -> tuple[int, int]:
    """Where the digest's 64 digits stand; the first match lies in the header, since that comes first."""
    match = _DIGEST.search(data)
    assert match is not None
    return match.span(1)


def _digest_of(data: bytes, start: int, end: int) -> str:
    digest = hashlib.sha256()
    whole = memoryview(data)
    for part in (whole[:start], UNSEALED.encode(), whole[end:]):
        digest.update(part)
    return digest.hexdigest()
