"""Processes of this machine that wait for work; they are started before what they are to do is known.

Importing torch and transformers takes a process longer than all else before it loads a model. The processes do so while
the one that starts them finds out what is asked. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import Any

from prefixkv.errors import PrefixKVError

FAILURE = "failure"
"""The kind of message by which a process says what it has raised; it ends then."""


@dataclasses.dataclass
class Child:
    """A process as it is seen from the one that has started it.

    Attributes:
        process: itself.
        ours: this end of the pipe to it.
        theirs: the other end.
    """

    process: Any
    ours: Connection
    theirs: Connection

    def send(self, content: Any) -> None:
        """Give it a task, work, or None for no more; one that has died is noticed when it is listened to."""
        try:
            self.ours.send(content)
        except OSError:
            return

    def end(self) -> None:
        """End it, if it still runs."""
        self.ours.close()
        if self.process.is_alive():
            self.process.terminate()
        if self.process.pid is not None:
            self.process.join()


class Children:
    """So many processes, ended with the `with`.

    Attributes:
        every: of them.
    """

    def __init__(self, count: int, module: str, function: str) -> None:
        """Prepare; nothing is started yet.

        Args:
            count: how many.
            module: full name of the module that they import at once.
            function: name of a function in it. It is called with the other end of the pipe and, as further arguments,
                what comes first through it: a tuple.
        """
        # A fork of a process that has run torch may hang in its thread pool.
        context = multiprocessing.get_context("spawn")
        self.every: list[Child] = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_wait_for_task, args=(theirs, module, function), name=f"prefixkv-{number}", daemon=True
            )
            self.every.append(Child(process, ours, theirs))

    def start(self) -> None:
        """Start them: they import what they need, and wait."""
        for child in self.every:
            child.process.start()
            # Or its end would not be seen here.
            child.theirs.close()

    def __enter__(self) -> Children:
        """Have those ended that are started inside."""
        return self

    def __exit__(self, *reason: object) -> None:
        """End those that still run."""
        self.end()

    def end(self) -> None:
        """End those that still run."""
        for child in self.every:
            child.end()


def _wait_for_task(pipe: Connection, module: str, function: str) -> None:  # pragma: no cover - in a process of its own
    """Import what does the work, and do it as long as the process that has started this one is there."""
    # Ctrl-C reaches all processes of a terminal; the one that was called ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work = getattr(importlib.import_module(module), function)
        work(pipe, *pipe.recv())
    except (EOFError, ConnectionError):
        # The one that deals is gone.
        return
    except Exception as error:
        failure = error if isinstance(error, PrefixKVError) else PrefixKVError(f"{type(error).__name__}: {error}")
        pipe.send((FAILURE, failure))
