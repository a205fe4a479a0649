"""A limit of time for a program of somebody else's that runs in this process: a chat template may loop for ever."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


class TimeUpError(Exception):
    """A call was not done when its time was up."""


class _Left(BaseException):
    """Ends the thread of a call that nobody waits for any more."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """Call a function in a thread of its own, and wait for it so long at most.

    Where its time is up an exception is raised in its thread, which ends it at its next Python instruction.

    Args:
        seconds: of wall time.
        call: what is called; what it raises is raised here.

    Raises:
        TimeUpError: it is not done.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except _Left:
            pass
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="time limit", daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        if thread.is_alive() and thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_Left))
    if not outcome.done():
        raise TimeUpError
    return outcome.result()
