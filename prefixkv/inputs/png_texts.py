"""A PNG without the texts in it: picture generators write megabytes of them, and the pixels do not need them."""

from __future__ import annotations

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


def without_texts(data: bytes) -> bytes:
    """Leave the text chunks of a PNG out.

    Args:
        data: of a PNG file; each chunk is a length of four bytes, a name of four, content, and a checksum of four.

    Returns:
        The same file without them, as far as it is one.
    """
    kept, start = [data[: len(SIGNATURE)]], len(SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in TEXTS:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)
