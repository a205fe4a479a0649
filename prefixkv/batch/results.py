"""The file of answers: written line by line, so that a run that was stopped goes on. Knows nothing of torch.

Every record names what was asked and the settings it was answered with, so that nothing is asked twice or mixed up, and
nothing that was answered is lost: answers to lines that are no longer there go to a file beside it. While several
processes work, each but the first writes a file of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prefixkv.batch.lines import Line
from prefixkv.batch.picture_files import are_the_same, file_marks
from prefixkv.batch.records import as_text, named, record_bytes, unnamed
from prefixkv.documents import MOST_LINES_BYTES, parse_json, read_regular, refuse_link, write_whole
from prefixkv.errors import PrefixKVError
from prefixkv.schemas.batch import BatchAnswerSchema
from prefixkv.schemas.field import parse

_BEGINNING = b'{"line": '
"""Of every record, also of one that a stopped process has only begun."""


class ResultFile:
    """The answers so far.

    Attributes:
        path: of the answers.
        earlier_path: of answers to lines that are no longer there, or whose pictures are others by now.
        retried: errors of earlier runs that are tried again, as the last `gather` has found.
        set_aside: answers that it has put into the file of earlier ones.
    """

    def __init__(self, path: Path, settings: str, process: int = 0, folder: Path = Path()) -> None:
        """Name the file; nothing is read or written yet.

        Args:
            path: of the answers.
            settings: digest of all that the answers depend on besides their lines.
            process: number of this process.
            folder: what the pictures' relative paths start from.
        """
        self.path, self._settings, self._folder = path, settings, folder
        self.earlier_path = path.with_name(f"{path.name}.earlier")
        self._own = path if process == 0 else self._part(process)
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self.retried = self.set_aside = 0

    def hold(self) -> None:
        """Keep other runs from the file until `release`, or until this process ends.

        Raises:
            PrefixKVError: another run has it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise PrefixKVError(f"another run writes to {self.path}: wait for its end, or give another --out") from None
        except OSError as error:
            raise PrefixKVError(f"{self.path} cannot be written: {error.strerror}") from error

    def release(self) -> None:
        """Let others have the file."""
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def remove(self) -> None:
        """Delete the records of earlier runs."""
        for path in (self.path, *self._parts()):
            refuse_link(path)
            path.unlink(missing_ok=True)

    def gather(self, lines: Sequence[Line], retry: bool = False) -> dict[int, dict[str, Any]]:
        """The records that are there, put into one file in the order of their lines.

        Args:
            lines: those of the batch.
            retry: whether to leave out errors that may have passed: all but those of a line that is itself wrong.

        Returns:
            Records by the number of their line; lines that ask the same have the same answer.

        Raises:
            PrefixKVError: the file was written with other settings, holds answers to other questions only, or is no
                such file.
        """
        asked = {line.digest: line for line in lines}
        paths = [self.path, *self._parts()]
        found: dict[str, dict[str, Any]] = {}
        others = []
        for record in (record for path in paths for record in self._read(path)):
            line = asked.get(record["input"])
            if line is not None and are_the_same(record.get("pictures"), line.sources, self._folder):
                found[line.digest] = record
            elif "error" not in record:
                others.append(record)
        if others and not found:
            raise PrefixKVError(
                f"{self.path} holds answers to other questions ({len(others)} of them): give another --out, or "
                "--overwrite"
            )
        tried = {d for d, record in found.items() if retry and "error" in record and asked[d].error is None}
        self.retried, self.set_aside = sum(line.digest in tried for line in lines), len(others)
        records = {
            line.number: named(line) | unnamed(found[line.digest])
            for line in lines
            if line.digest in found and line.digest not in tried
        }
        if others:
            self._set_aside(others)
        text = b"".join(record_bytes(records[number]) for number in sorted(records))
        if text or self.path.exists():
            write_whole(self.path, text)
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
        record = named(line) | as_text(content) | {"input": line.digest, "settings": self._settings}
        if "error" not in record and any(marks := file_marks(line.sources, self._folder)):
            record["pictures"] = marks
        try:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            with self._own.open("ab") as file:
                file.write(record_bytes(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PrefixKVError(f"{self._own} cannot be written: {error.strerror}") from error

    def _set_aside(self, records: list[dict[str, Any]]) -> None:
        refuse_link(self.earlier_path)
        before = _content(self.earlier_path)
        write_whole(self.earlier_path, before + b"".join(record_bytes(record) for record in records))

    def _parts(self) -> list[Path]:
        prefix = f".{self.path.name}.part-"
        folder = self.path.parent
        return sorted(path for path in folder.iterdir() if path.name.startswith(prefix)) if folder.is_dir() else []

    def _part(self, process: int) -> Path:
        return self.path.with_name(f".{self.path.name}.part-{process}")

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        *whole, last = _content(path).split(b"\n")
        for number, raw in enumerate([*whole, last], start=1):
            if number > len(whole) and (not raw or raw.startswith(_BEGINNING) or _BEGINNING.startswith(raw)):
                # Behind the last line break is what a stopped process had begun to write, or nothing.
                return
            try:
                record = _record(raw)
            except (ValueError, PrefixKVError) as error:
                raise PrefixKVError(
                    f"{path}: line {number} is no answer of a batch ({error}): give another --out"
                ) from None
            if record["settings"] != self._settings:
                raise PrefixKVError(
                    f"{path} was written with another model, budget, method, codec or answer length: give another "
                    "--out, or --overwrite"
                )
            yield record


def _content(path: Path) -> bytes:
    """The whole file; nothing where there is none."""
    refuse_link(path)
    return read_regular(path, "a file for the answers", MOST_LINES_BYTES) if path.exists() else b""


def _record(raw: bytes) -> dict[str, Any]:
    """One record as its line has it.

    Raises:
        ValueError: the line is no JSON.
        PrefixKVError: it is, but no record.
    """
    record = parse_json(raw)
    parse(BatchAnswerSchema, as_text(record) if isinstance(record, dict) else record, "the record")
    return record
