"""What the record of a line holds, and how it is written as JSON. Knows nothing of torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prefixkv.batch.lines import Line


def as_text(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same with halves of a pair of UTF-16, which a path may have, written out: no text has them alone."""
    texts = {name: text for name in ("answer", "error") if isinstance(text := content.get(name), str)}
    return dict(content) | {name: text.encode(errors="backslashreplace").decode() for name, text in texts.items()}


def named(line: Line) -> dict[str, Any]:
    """What says which line a record is of."""
    return {"line": line.number} | ({"id": line.label} if line.label is not None else {})


def unnamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without that."""
    return {name: value for name, value in record.items() if name not in ("line", "id")}


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """A record as its line in the file of answers."""
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    # Half of a pair of UTF-16 is no text: JSON has it escaped.
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False).encode() + b"\n"
