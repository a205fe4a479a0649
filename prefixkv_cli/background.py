"""Work that goes on while the terminal is already being used, and how the program ends in the midst of it."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from prefixkv_cli import output

Result = TypeVar("Result")
_NAME = "prefixkv in the background"
_LOOK_SECONDS = 0.1


class Background(Generic[Result]):
    """One piece of work in a thread of its own; what it would say is said by whoever takes its result."""

    def __init__(self, work: Callable[[], Result], when_done: Callable[[], None]) -> None:
        """Begin.

        Args:
            work: what is to be done.
            when_done: called in the same thread afterwards, also where the work has failed.
        """
        self._work, self._when_done = work, when_done
        self._result: list[Result] = []
        self._error: BaseException | None = None
        self._notices: list[str] = []
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or an error."""
        return bool(self._result) or self._error is not None

    def take(self) -> Result:
        """Wait for the result, and say what there was to be said.

        Raises:
            BaseException: whatever the work has raised.
            KeyboardInterrupt: Ctrl-C while waiting; the work goes on.
        """
        while not self.is_done:
            # A wait without a limit would not be ended by Ctrl-C on every platform.
            self._thread.join(_LOOK_SECONDS)
        while self._notices:
            output.notice(self._notices.pop(0))
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            with output.notices_held(self._notices):
                self._result.append(self._work())
        except BaseException as error:
            self._error = error
        self._when_done()


def end_process(code: int) -> None:
    """End the program.

    Python lets a thread that is within an import of torch run on while it takes the interpreter apart, which may crash.
    In that case the process ends without it.

    Args:
        code: the exit code.
    """
    if any(thread.name == _NAME for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
        os._exit(code)
    # The system takes all memory back: nobody needs to look for cycles in every module before.
    gc.freeze()
    sys.exit(code)
