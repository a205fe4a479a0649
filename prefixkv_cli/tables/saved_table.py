"""Lists of what was saved: a table in a terminal, lines of fields with tabs between them in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.table import Table

from prefixkv.errors import PrefixKVError
from prefixkv.policy.budget import format_bytes
from prefixkv_cli import output

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60))


def readable(names: Iterable[str], read: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all files that can be read; each other one is named on stderr, and does no harm to the rest.

    Args:
        names: under which the files were saved.
        read: makes a file's row; may raise a PrefixKVError.
    """
    rows = []
    for name in names:
        try:
            rows.append(read(name))
        except PrefixKVError as error:
            output.notice(f"{name} is left out: {error}")
    return rows


def saved_row(path: Path, name: str, model: str, **own: Any) -> dict[str, Any]:
    """A row of a list of saved files: what all of them have, then what this kind has of its own.

    Args:
        path: the file.
        name: under which it was saved.
        model: that it is of.
        own: further fields, in their order.
    """
    facts = path.stat()
    age_seconds = round(time.time() - facts.st_mtime)
    return {"name": name, "model": model, "age_seconds": age_seconds, "file_bytes": facts.st_size, **own}


def show_saved_files(rows: Sequence[Mapping[str, Any]], own: Mapping[str, Callable[[Mapping[str, Any]], str]]) -> None:
    """Write a list of saved files to stdout: name, model, age and size of each, then what its kind has of its own.

    Args:
        rows: from `saved_row`.
        own: heading and text of each further column.
    """
    shared: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "name": itemgetter("name"),
        "model": itemgetter("model"),
        "saved": lambda row: age(row["age_seconds"]),
        "size": lambda row: format_bytes(row["file_bytes"]),
    }
    show_saved(rows, shared | dict(own))


def show_saved(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[Mapping[str, Any]], str]]) -> None:
    """Write a list to stdout.

    Args:
        rows: one for each file.
        columns: heading and text of each column.
    """
    cells = [[text(row) for text in columns.values()] for row in rows]
    if not output.is_terminal(output.stdout_console().file):
        output.write_text("".join("\t".join(line) + "\n" for line in cells))
        return
    table = Table(box=None, pad_edge=False)
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for line in cells:
        table.add_row(*line)
    output.stdout_console().print(table)


def count(number: int, noun: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def age(seconds: float) -> str:
    """How long ago, in the largest unit that fits: `4 minutes ago`."""
    for noun, length in _UNITS:
        if seconds >= length:
            return f"{count(int(seconds // length), noun)} ago"
    return "just now"
