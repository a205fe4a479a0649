"""A PNG without what its pixels do not need: megabytes of text of picture generators, and broken notes of all kinds."""

from __future__ import annotations

import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = {b"tRNS", b"eXIf"}
"""Side chunks that change what is seen: transparency, and which way is up."""


def without_side_chunks(data: bytes) -> bytes:
    """Leave out of a PNG what decoders may skip, but for transparency and orientation that are whole.

    Args:
        data: of a PNG file; each chunk is a length of four bytes, a name of four, content, and a checksum of four. The
            names of chunks that may be skipped begin with a small letter.

    Returns:
        The same file without them, as far as it is one.
    """
    kept, start = [data[: len(SIGNATURE)]], len(SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        name, content = data[start + 4 : start + 8], data[start + 8 : end - 4]
        is_whole = bool(content) and zlib.crc32(name + content) == int.from_bytes(data[end - 4 : end], "big")
        if not name[:1].islower() or (name in _KEPT and is_whole):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)
