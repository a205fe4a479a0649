"""Answers that go to a stream, each as soon as it is there; nothing of them is kept. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixkv.batch.lines import Line
from prefixkv.batch.records import as_text, named


class ResultStream:
    """Takes records as a `ResultFile` does, and hands them on.

    Attributes:
        errors: the records of lines that met one.
    """

    def __init__(self, lines: Sequence[Line], settings: str, write: Callable[[Mapping[str, Any]], None]) -> None:
        """Begin.

        Args:
            lines: that are to be answered; those that ask the same get the same answer.
            settings: digest of all that the answers depend on besides their lines.
            write: called with each record.
        """
        self._settings, self._write = settings, write
        self._asking: dict[str, list[Line]] = {}
        for line in lines:
            self._asking.setdefault(line.digest, []).append(line)
        self.errors: list[dict[str, Any]] = []

    def append(self, line: Line, content: Mapping[str, Any]) -> None:
        """Hand on the record of a line, and those of the lines that ask the same.

        Args:
            line: what was asked.
            content: the answer, or `error`.
        """
        for each in self._asking[line.digest]:
            record = named(each) | as_text(content) | {"input": each.digest, "settings": self._settings}
            if "error" in record:
                self.errors.append(record)
            self._write(record)
