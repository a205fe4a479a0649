"""Processes of this machine that wait for work; they are started before what they are to do is known.

Importing torch and transformers takes a process longer than all else before it loads a model. The processes do so while
the one that starts them finds out what is asked. Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from prefixkv.batch.speed import ProcessSeconds
from prefixkv.errors import PrefixKVError

if TYPE_CHECKING:
    from prefixkv.batch.lines import Line


@dataclasses.dataclass
class Child:
    """A process as it is seen from the one that has started it.

    Attributes:
        process: itself.
        ours: this end of the pipe to it.
        theirs: the other end.
        lines: that it has and that are not answered, by number.
        seconds: that it took to start, and to work.
        is_free: whether it waits for lines.
        has_ended: whether it is no longer there.
    """

    process: Any
    ours: Connection
    theirs: Connection
    lines: dict[int, Line] = dataclasses.field(default_factory=dict)
    seconds: ProcessSeconds = dataclasses.field(default_factory=ProcessSeconds)
    is_free: bool = False
    has_ended: bool = False

    def send(self, content: Any) -> None:
        """Give it its task, lines, or None for no more; one that has died is noticed when it is listened to."""
        try:
            self.ours.send(content)
        except OSError:
            return


class Children:
    """So many processes, ended with the `with`."""

    def __init__(self, count: int) -> None:
        """Prepare; nothing is started yet."""
        # A fork of a process that has run torch may hang in its thread pool.
        context = multiprocessing.get_context("spawn")
        self.every: list[Child] = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_wait_for_task, args=(theirs,), name=f"prefixkv-batch-{number}", daemon=True
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
        for child in self.every:
            child.ours.close()
            if child.process.is_alive():
                child.process.terminate()
            if child.process.pid is not None:
                child.process.join()


def _wait_for_task(pipe: Connection) -> None:  # pragma: no cover - in a process of its own
    """Import what answers lines, and answer those that are dealt until nothing comes any more."""
    # Ctrl-C reaches all processes of a terminal; the one that was called ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        from prefixkv.batch.dealt_lines import answer_dealt

        answer_dealt(pipe, *pipe.recv())
    except (EOFError, ConnectionError):
        # The one that deals is gone.
        return
    except Exception as error:
        failure = error if isinstance(error, PrefixKVError) else PrefixKVError(f"{type(error).__name__}: {error}")
        pipe.send(("failure", failure))
