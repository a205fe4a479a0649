"""A trace of reads, steps and admissions that chrome://tracing and Perfetto open. Knows nothing of torch."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from prefixkv.errors import PrefixKVError


class Trace:
    """Events, written as they happen, so that a run that is stopped leaves a trace that opens."""

    def __init__(self, path: Path | None) -> None:
        """Begin the file.

        Args:
            path: of the trace; None for none, which costs nothing.

        Raises:
            PrefixKVError: it cannot be written.
        """
        self._lock, self._began = threading.Lock(), time.perf_counter()
        try:
            # The format is an array of JSON objects, whose closing bracket may be missing.
            self._file = None if path is None else path.open("w", encoding="utf-8")
        except OSError as error:
            raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from error
        if self._file is not None:
            self._file.write("[\n")
            self._write({"name": "process_name", "ph": "M", "args": {"name": "prefixkv"}})

    @contextlib.contextmanager
    def span(self, name: str, **arguments: Any) -> Iterator[None]:
        """What the `with` does, from its beginning to its end.

        Args:
            name: of what is done.
            **arguments: shown beside it.
        """
        if self._file is None:
            yield
            return
        began = self._now()
        try:
            yield
        finally:
            self._write({"name": name, "ph": "X", "ts": began, "dur": self._now() - began, "args": arguments})

    def moment(self, name: str, **arguments: Any) -> None:
        """Something that takes no time.

        Args:
            name: of what has happened.
            **arguments: shown beside it.
        """
        if self._file is not None:
            self._write({"name": name, "ph": "i", "s": "p", "ts": self._now(), "args": arguments})

    def count(self, name: str, **values: float) -> None:
        """Values at this moment, which are drawn as curves.

        Args:
            name: of the plot.
            **values: by their names.
        """
        if self._file is not None:
            self._write({"name": name, "ph": "C", "ts": self._now(), "args": values})

    def close(self) -> None:
        """End the file."""
        with self._lock:
            if self._file is not None:
                self._file.write("{}]\n")
                self._file.close()
                self._file = None

    def __enter__(self) -> Trace:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the file."""
        self.close()

    def _now(self) -> float:
        """Microseconds since the trace began."""
        return (time.perf_counter() - self._began) * 1e6

    def _write(self, event: dict[str, Any]) -> None:
        with self._lock:
            if self._file is not None:
                self._file.write(json.dumps(event | {"pid": 1, "tid": threading.get_native_id()}) + ",\n")
                self._file.flush()
