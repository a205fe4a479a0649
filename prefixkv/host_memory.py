"""The host's memory as glibc keeps it: what is free goes back to the system. Elsewhere nothing is done.

What is held for long, such as a conversation's cache, settles in the gaps of what is freed soon, such as the tensors of
a pass or the pictures of a prompt. Left to itself, glibc keeps all such gaps, and each thread that begins may have gaps
of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 10.0
"""Between two times that a program which goes on gives back what is free. Each takes some 10 ms, and as many again
until the next tensors have their pages."""
LEAST_WORK = 0.1
"""Seconds of processor time without which nothing was freed that is worth it."""
_ARENA_MAX = -8
"""`M_ARENA_MAX` of malloc.h."""


@functools.cache
def _function(name: str) -> Callable[..., Any] | None:
    """One of glibc's; None where there is another C library, or Windows."""
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        return None
    return found


def give_back() -> None:
    """Hand the host's memory that is free back to the system."""
    if trim := _function("malloc_trim"):
        trim(0)


def share_one_arena() -> None:
    """Have all threads that begin from now on take their memory from one place.

    By default glibc opens up to eight arenas a core. The engine's thread comes and goes with its requests, finds
    another arena each time, and leaves what it has freed behind in the last, of whose end `malloc_trim` gives nothing
    back.
    """
    if set_option := _function("mallopt"):
        set_option(_ARENA_MAX, 1)


@contextlib.contextmanager
def given_back(seconds: float = SECONDS) -> Iterator[None]:
    """Give back what is free, again and again while the `with` lasts, in a thread of its own.

    Args:
        seconds: between two times; nothing is done where the process has not worked between them.
    """
    ended = threading.Event()

    def work() -> None:
        worked = time.process_time()
        while not ended.wait(seconds):
            if time.process_time() - worked >= LEAST_WORK:
                give_back()
                worked = time.process_time()

    thread = threading.Thread(target=work, name="prefixkv-memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
