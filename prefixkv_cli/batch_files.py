"""Files of a batch that lie elsewhere (s3://, gs:// and whatever fsspec knows), or are tables."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.documents import write_whole
from prefixkv.errors import PrefixKVError
from prefixkv.home import home

if TYPE_CHECKING:
    from prefixkv.batch.lines import Line

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.+")
_AS_JSON = ("id", "pictures")
"""Fields of a record that may hold anything, which a column of a table cannot: there they are JSON."""


def is_address(name: str) -> bool:
    """Whether it names a file of a file system that fsspec opens."""
    return bool(_ADDRESS.fullmatch(name)) and not name.startswith(("http://", "https://", "data:"))


def read_table_or_lines(name: str) -> list[Line]:
    """The lines of a file of JSON objects, or of a Parquet table with a line's fields as its columns.

    Args:
        name: a path or an address.

    Raises:
        PrefixKVError: it cannot be read, or holds no line.
    """
    from prefixkv.batch.lines import lines_of, lines_of_rows

    data = _read(name)
    return lines_of_rows(_rows(data, name), name) if name.endswith(".parquet") else lines_of(data, name)


class AnswersElsewhere:
    """A file of answers elsewhere or in a table, and the file of lines on this machine that is worked on meanwhile.

    Attributes:
        name: as the user gave it.
        path: of the file on this machine; it stays, so that a run that was stopped goes on.
    """

    def __init__(self, name: str, overwrite: bool = False) -> None:
        """Take over the answers that are there already.

        Args:
            name: a path or an address.
            overwrite: whether to leave them.

        Raises:
            PrefixKVError: it cannot be read, or others have written it since this machine did.
        """
        self.name = name
        place = name if is_address(name) else str(Path(name).resolve())
        self.path = home() / "batches" / f"{_digest(place.encode())[:16]}.jsonl"
        # Says what this machine has left there, so that nobody else's answers are overwritten.
        self._left = self.path.with_suffix(".left")
        if overwrite:
            self._left.unlink(missing_ok=True)
        data = _read(name) if not overwrite and _exists(name) else None
        if data is None or (self._left.exists() and self._left.read_text() == _digest(data)):
            return
        if self.path.exists():
            raise PrefixKVError(f"{name} is not as this machine has left it: give another --out, or --overwrite")
        from prefixkv.batch.records import record_bytes

        rows = _rows(data, name) if name.endswith(".parquet") else None
        lines = data if rows is None else b"".join(record_bytes(_record(row)) for row in rows)
        write_whole(self.path, lines)
        write_whole(self._left, _digest(data).encode())

    def publish(self) -> None:
        """Write what is answered by now to where it was asked for, whole; nothing where it is there.

        Raises:
            PrefixKVError: the place cannot be written; the answers are still on this machine.
        """
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        data = _table(data) if self.name.endswith(".parquet") else data
        if self._left.exists() and self._left.read_text() == _digest(data) and _exists(self.name):
            return
        try:
            if is_address(self.name):
                with _fsspec().open(self.name, "wb") as file:
                    file.write(data)
            else:
                write_whole(Path(self.name), data)
        except Exception as error:
            raise PrefixKVError(
                f"{self.name} cannot be written ({error}): they are in {self.path}; the same command writes them"
            ) from error
        write_whole(self._left, _digest(data).encode())


def _table(lines: bytes) -> bytes:
    """Records as a Parquet table, with a column for every field that one of them has."""
    pyarrow, parquet = _pyarrow()
    rows = [
        {name: json.dumps(value) if name in _AS_JSON else value for name, value in json.loads(line).items()}
        for line in lines.splitlines()
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), buffer)
    return buffer.getvalue()


def _record(row: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in row.items() if value is not None}
    return {name: json.loads(value) if name in _AS_JSON else value for name, value in given.items()}


def _rows(data: bytes, name: str) -> list[dict[str, Any]]:
    pyarrow, parquet = _pyarrow()
    try:
        return parquet.read_table(io.BytesIO(data)).to_pylist()
    except pyarrow.ArrowException as error:
        raise PrefixKVError(f"{name} is no Parquet table that can be read: {str(error).splitlines()[0]}") from error


def _read(name: str) -> bytes:
    # A file system's own errors are of many kinds, and its library may be missing.
    try:
        with _fsspec().open(name, "rb") as file:
            return file.read()
    except Exception as error:
        raise PrefixKVError(f"{name} cannot be read: {str(error) or type(error).__name__}") from error


def _exists(name: str) -> bool:
    try:
        system, path = _fsspec().core.url_to_fs(name)
        return bool(system.exists(path))
    except Exception as error:
        raise PrefixKVError(f"{name} cannot be looked for: {str(error) or type(error).__name__}") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fsspec() -> Any:
    import fsspec

    return fsspec


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise PrefixKVError("Parquet tables need pyarrow: pip install 'prefixkv[ray]'") from None
    return pyarrow, parquet
