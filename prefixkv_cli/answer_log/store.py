"""The file of the log: entries are added, listed, searched and removed, by several processes at once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from prefixkv.documents import refuse_link
from prefixkv.errors import PrefixKVError
from prefixkv.home import home

VERSION = 1
"""Of the tables; a file of a later one is neither read nor written."""
PATIENCE_SECONDS = 5.0
"""How long a process waits for another one that is writing."""

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, conversation TEXT NOT NULL, prompt TEXT NOT NULL,
    answer TEXT NOT NULL, pictures TEXT NOT NULL, model TEXT NOT NULL, method TEXT NOT NULL, codec TEXT NOT NULL,
    budget TEXT NOT NULL, prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL, finish_reason TEXT NOT NULL,
    kept_bytes INTEGER NOT NULL, full_bytes INTEGER NOT NULL, prefill_seconds REAL NOT NULL,
    decode_seconds REAL NOT NULL
)
"""


@dataclass(frozen=True)
class LoggedAnswer:
    """One question and its answer.

    Attributes:
        time: when the answer had ended, UTC, in ISO 8601.
        conversation: the same for all turns of a conversation.
        prompt: the question.
        answer: as far as it was said.
        pictures: of this question, each `name` (path or address) and `sha256` (of its pixels); never the pixels.
        model: its name.
        method: by which entries were chosen.
        codec: of the entries.
        budget: as it was given.
        prompt_tokens: read for this question.
        new_tokens: of the answer.
        finish_reason: why it ended.
        kept_bytes: of the cache behind the answer, as a 16-bit cache's are counted.
        full_bytes: of a 16-bit cache of the same tokens.
        prefill_seconds: until the first token.
        decode_seconds: from there to the last.
        id: the number in the log; 0 for one that is not in it yet.
    """

    time: str
    conversation: str
    prompt: str
    answer: str
    pictures: tuple[dict[str, str], ...]
    model: str
    method: str
    codec: str
    budget: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: str
    kept_bytes: int
    full_bytes: int
    prefill_seconds: float
    decode_seconds: float
    id: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"id": self.id, **asdict(self), "pictures": list(self.pictures)}


_COLUMNS = tuple(field.name for field in fields(LoggedAnswer) if field.name != "id")
_PICTURES = _COLUMNS.index("pictures")


def log_file() -> Path:
    """Where the log is, or would be."""
    return home() / "log.sqlite3"


def add_answer(entry: LoggedAnswer) -> None:
    """Add an entry; the file is made, for its owner alone, where there is none.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    values: list[Any] = list(astuple(entry)[:-1])
    values[_PICTURES] = json.dumps(entry.pictures, ensure_ascii=False)
    # A name may hold bytes that are no UTF-8, which SQLite does not take.
    values = [value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value for value in values]
    marks = ", ".join("?" for _ in values)
    with _opened(make=True) as log:
        log.execute(f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({marks})", values)


def newest_answers(limit: int, text: str = "") -> list[LoggedAnswer]:
    """The newest entries, oldest of them first.

    Args:
        limit: at most so many.
        text: only entries whose question or answer has this in it, whatever its case.

    Raises:
        PrefixKVError: the file cannot be read.
    """
    where = "WHERE holds(prompt, ?) OR holds(answer, ?)" if text else "WHERE ?1 = ?2"
    return _select(f"{where} ORDER BY id DESC LIMIT ?", (text, text, limit))[::-1]


def find_answer(number: int | None) -> LoggedAnswer:
    """One entry.

    Args:
        number: its id; the newest where None.

    Raises:
        PrefixKVError: there is none, or the file cannot be read.
    """
    found = newest_answers(1) if number is None else _select("WHERE id = ?", (number,))
    if not found:
        raise PrefixKVError(
            "the log is empty" if number is None else f"the log has no answer {number}: `prefixkv log list` has them"
        )
    return found[0]


def remove_answers(numbers: Sequence[int] | None) -> int:
    """Take entries out; their text is overwritten in the file.

    Args:
        numbers: their ids; all where None.

    Returns:
        How many there were.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    with _opened() as log:
        if log is None:
            return 0
        if numbers is None:
            return log.execute("DELETE FROM answers").rowcount
        return log.executemany("DELETE FROM answers WHERE id = ?", [(number,) for number in numbers]).rowcount


def _select(condition: str, values: Sequence[Any]) -> list[LoggedAnswer]:
    with _opened() as log:
        if log is None:
            return []
        rows = log.execute(f"SELECT {', '.join(_COLUMNS)}, id FROM answers {condition}", values).fetchall()
    try:
        named: list[dict[str, Any]] = [dict(zip((*_COLUMNS, "id"), row, strict=True)) for row in rows]
        return [LoggedAnswer(**row | {"pictures": tuple(json.loads(row["pictures"]))}) for row in named]
    except (ValueError, TypeError):
        raise PrefixKVError(f"{log_file()} is damaged: move it away, and a new log begins") from None


@contextmanager
def _opened(make: bool = False) -> Iterator[Any]:
    """A transaction on the log; None where there is no file and none is to be made."""
    path = log_file()
    refuse_link(path)
    try:
        if not path.exists():
            if not make:
                yield None
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            # SQLite's own files beside it get the same rights.
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)) as log:
            log.execute("PRAGMA secure_delete = ON")
            # SQLite's own LIKE knows the case of ASCII letters only.
            log.create_function("holds", 2, _holds, deterministic=True)
            log.execute("BEGIN IMMEDIATE")
            _require_version(log, path)
            yield log
            log.execute("COMMIT")
    except sqlite3.Error as error:
        raise PrefixKVError(f"the log {path} cannot be used: {error}") from None
    except OSError as error:
        raise PrefixKVError(f"the log {path} cannot be used: {error.strerror}") from None


def _holds(within: str, text: str) -> bool:
    return text.casefold() in within.casefold()


def _require_version(log: sqlite3.Connection, path: Path) -> None:
    (version,) = log.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise PrefixKVError(f"the log {path} is from a later version of prefixkv: update prefixkv")
    if version == 0:
        log.execute(_TABLE)
        log.execute(f"PRAGMA user_version = {VERSION}")
