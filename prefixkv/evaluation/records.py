"""What was measured, sample by sample, in files that a killed run leaves usable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixkv.documents import (
    MOST_LINES_BYTES,
    parse_json,
    read_document,
    read_regular,
    refuse_link,
    write_json,
)
from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.cells import Cell
from prefixkv.schemas.evaluation import EvaluationSchema, RecordSchema
from prefixkv.schemas.field import parse, shown_text

KIND, VERSION = "prefixkv-evaluation", 2
HEAD, RESULTS = "head.json", "results.json"
MOST_CHANGES = 4
"""Settings that a message names."""

Record = dict[str, Any]
Key = tuple[int, Cell]


class RecordFolder:
    """A folder with a head that says what was measured and how, and one line for every sample in every cell.

    Each process appends to a file of its own, whole lines in one write. A line that a killed process has cut off is
    left out, and so is one of a method whose recipe has changed since.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], look_ahead: str | None = None) -> None:
        """Open a folder, or make it.

        Args:
            path: the folder.
            settings: all that figures of any method depend on, plain values.
            look_ahead: digest of the model's look-ahead queries, where there are some.

        Raises:
            PrefixKVError: the folder holds something else, or was measured with other settings.
        """
        self.path, self._look_ahead = path, look_ahead
        refuse_link(path)
        if path.exists() and not path.is_dir():
            raise PrefixKVError(f"{path} is no folder: give --out another one")
        if not (path / HEAD).exists():
            _require_nothing_else(path)
            write_json(path / HEAD, {"format": KIND, "version": VERSION, "settings": dict(settings)})
        content = read_document(path / HEAD, KIND, VERSION)
        if content["version"] < VERSION:
            raise PrefixKVError(
                f"{path} was measured when shares were of the model's own dtype: give --out another folder"
            )
        head = parse(EvaluationSchema, content, str(path / HEAD))
        changed = _changes(head.settings, settings)
        if changed:
            raise PrefixKVError(
                f"{path} was measured with other settings ({'; '.join(changed)}): give --out another folder"
            )

    def read(self) -> dict[Key, Record]:
        """All records, by sample and cell.

        Raises:
            PrefixKVError: a file cannot be read.
        """
        found: dict[Key, Record] = {}
        for file in sorted(self.path.glob("records-*.jsonl")):
            for line in read_regular(file, "--out another folder", MOST_LINES_BYTES).split(b"\n"):
                entry = _entry(line, self._look_ahead)
                if entry is not None:
                    found.setdefault(*entry)
        return found

    def append(self, process: int, sample: int, records: Mapping[Cell, Record]) -> None:
        """Write one sample's records.

        Args:
            process: number of the process, which names its file.
            sample: number of the sample.
            records: by cell.

        Raises:
            PrefixKVError: the disk does not take them, or a figure is no finite number.
        """
        file = self.path / f"records-{process}.jsonl"
        refuse_link(file)
        lines = [
            {
                "sample": sample,
                "method": cell.method,
                "budget": cell.budget,
                "codec": cell.codec,
                "recipe": cell.recipe(self._look_ahead),
                **record,
            }
            for cell, record in records.items()
        ]
        for line in lines:
            parse(RecordSchema, line, f"sample {sample} with {line['method']} at {line['budget']} cannot be recorded")
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        try:
            with file.open("ab") as stream:
                # A killed run may have left half a line.
                stream.write((b"" if _ends_whole(file) else b"\n") + text.encode())
        except OSError as error:
            raise PrefixKVError(f"{file} cannot be written: {error.strerror}") from None

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write the figures of all cells beside the records."""
        write_json(self.path / RESULTS, dict(results))


def _entry(line: bytes, look_ahead: str | None) -> tuple[Key, Record] | None:
    """A line's key and figures; None for what a killed run has cut off, or what another recipe was measured with."""
    try:
        record = parse(RecordSchema, parse_json(line), "a line").model_dump(exclude_none=True)
        cell = Cell(record.pop("method"), record.pop("budget"), record.pop("codec"))
        is_current = record.pop("recipe") == cell.recipe(look_ahead)
    except (ValueError, PrefixKVError):
        return None
    return ((record.pop("sample"), cell), record) if is_current else None


def _require_nothing_else(path: Path) -> None:
    """Refuse a folder without a head, unless it is empty or a killed run had only begun to write the head."""
    try:
        found = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be read: {error.strerror}") from None
    if any(name.startswith("records-") for name in found):
        raise PrefixKVError(
            f"{path} has records but no {HEAD}, which says what they were measured with: give --out another folder"
        )
    if any(not name.startswith(f".{HEAD}.") for name in found):
        raise PrefixKVError(f"{path} holds other files: give --out an empty folder or a new one")


def _ends_whole(file: Path) -> bool:
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size == 0:
            return True
        stream.seek(size - 1)
        return stream.read(1) == b"\n"


def _changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Which settings differ, the names only: a digest tells nobody anything."""
    plain = json.loads(json.dumps(dict(wanted)))
    changed = sorted(name for name in {*found, *plain} if found.get(name) != plain.get(name))
    return [shown_text(name) for name in changed[:MOST_CHANGES]]
