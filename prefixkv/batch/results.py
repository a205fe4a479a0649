"""The file of answers: written line by line, so that a run that was stopped goes on. Knows nothing of torch.

Every record names its line and the settings it was made with, so that nothing is asked twice or mixed up. While several
processes work, each but the first writes a file of its own beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefixkv.batch.lines import Line
from prefixkv.documents import refuse_link, write_whole
from prefixkv.errors import PrefixKVError


class ResultFile:
    """The answers so far."""

    def __init__(self, path: Path, settings: str, process: int = 0) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            path: of the answers.
            settings: digest of all that the answers depend on besides their lines.
            process: number of this process.
        """
        self.path, self._settings = path, settings
        self._own = path if process == 0 else self._part(process)

    def remove(self) -> None:
        """Delete the records of earlier runs."""
        for path in (self.path, *self._parts()):
            refuse_link(path)
            path.unlink(missing_ok=True)

    def gather(self, lines: Iterable[Line]) -> dict[int, dict[str, Any]]:
        """The records that are there, put into one file in the order of their lines.

        Args:
            lines: those of the batch; records of others, or of lines that have changed, are dropped.

        Returns:
            Records by the number of their line.

        Raises:
            PrefixKVError: the file was written with other settings, or is no such file.
        """
        known = {line.number: line.digest for line in lines}
        records = {}
        paths = [self.path, *self._parts()]
        for record in (record for path in paths for record in self._read(path)):
            if known.get(record["line"]) == record["input"]:
                records[record["line"]] = record
        if records or self.path.exists():
            text = "".join(_text(records[number]) for number in sorted(records))
            write_whole(self.path, text.encode())
        for part in paths[1:]:
            part.unlink(missing_ok=True)
        return records

    def read(self) -> dict[int, dict[str, Any]]:
        """The records of the file as it is, by line."""
        return {record["line"]: record for record in self._read(self.path)}

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Add a record, at once and for good.

        Args:
            line: what was asked.
            content: the answer, or `error`.

        Raises:
            PrefixKVError: the place cannot be written.
        """
        named = {"line": line.number} | ({"id": line.label} if line.label is not None else {})
        record = named | dict(content) | {"input": line.digest, "settings": self._settings}
        try:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            with self._own.open("a", encoding="utf-8") as file:
                file.write(_text(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PrefixKVError(f"{self._own} cannot be written: {error.strerror}") from error

    def _parts(self) -> list[Path]:
        prefix = f".{self.path.name}.part-"
        folder = self.path.parent
        return sorted(path for path in folder.iterdir() if path.name.startswith(prefix)) if folder.is_dir() else []

    def _part(self, process: int) -> Path:
        return self.path.with_name(f".{self.path.name}.part-{process}")

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        refuse_link(path)
        if not path.exists():
            return
        if path.is_dir():
            raise PrefixKVError(f"{path} is a folder: give a file for the answers")
        *whole, last = path.read_bytes().split(b"\n")
        for number, raw in enumerate([*whole, last], start=1):
            try:
                record = json.loads(raw)
                settings = record["settings"]
                _ = record["line"], record["input"]
            except (ValueError, KeyError, TypeError):
                # Behind the last line break is what a stopped process had begun to write, or nothing.
                if number > len(whole):
                    return
                raise PrefixKVError(f"{path}: line {number} is no answer of a batch: give another --out") from None
            if settings != self._settings:
                raise PrefixKVError(
                    f"{path} was written with another model, budget, method or answer length: give another --out, or "
                    "--overwrite"
                )
            yield record


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
