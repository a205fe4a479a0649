"""The process that has the model and its engine, started early: it imports torch while its model is still chosen.

Its interpreter serves the engine's thread alone; HTTP, prompts and texts are made in the process that has started it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from prefixkv.host_memory import given_back, share_one_arena

if TYPE_CHECKING:
    from prefixkv.models.loading import LoadedModel

END_SECONDS = 10
"""So long an engine may take to end what it does."""


@dataclass(frozen=True)
class EngineOrder:
    """What the process is to load and run; can be sent there.

    Attributes:
        load: loads the model there; is given what takes notices.
        options: further arguments of `Engine`.
    """

    load: Callable[[Callable[[str], None]], LoadedModel]
    options: Mapping[str, Any]


class EngineProcess:
    """A process for an engine; started with the `with` and ended with it.

    Attributes:
        pipe: to it.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, self._theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(self._theirs,), name="prefixkv-engine", daemon=True)
        self._lock = threading.Lock()

    def __enter__(self) -> EngineProcess:
        """Start it."""
        self._process.start()
        # Or its end would not be seen here.
        self._theirs.close()
        return self

    def __exit__(self, *reason: object) -> None:
        """End it if it still runs."""
        self.end(0)

    @property
    def number(self) -> int | None:
        """That the system knows it by."""
        return self._process.pid

    def end(self, patience: float = END_SECONDS) -> int | None:
        """See to it that it has ended.

        Args:
            patience: seconds that it may take by itself.

        Returns:
            Its exit code; below 0 the number of the signal that has ended it.
        """
        with self._lock:
            self._process.join(patience)
            for end in (self._process.terminate, self._process.kill):
                if self._process.is_alive():
                    end()
                    self._process.join(1)
            self.pipe.close()
            return self._process.exitcode


def _work(pipe: Connection) -> None:  # pragma: no cover - in a process of its own
    """Load what is ordered, and answer requests until the other end hangs up."""
    share_one_arena()
    # Ctrl-C reaches all processes of a terminal; the one that was called ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="prefixkv-parent", daemon=True).start()
    # Nothing of what is imported and loaded goes away.
    gc.disable()
    from prefixkv.server.engine_host import run_engine

    with given_back():
        run_engine(pipe)


def _end_with_parent() -> None:  # pragma: no cover - in a process of its own
    """End at once when the process that has started this one is gone, whatever is computed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
