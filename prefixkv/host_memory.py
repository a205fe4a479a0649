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
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""`M_TRIM_THRESHOLD`, `M_MMAP_THRESHOLD` and `M_ARENA_MAX` of malloc.h."""
HELD_BYTES = 2**30
"""So much may be free at once before glibc gives of it back by itself."""
LARGE_BYTES = 2**25
"""A tensor of more comes from the system and goes back there each time; glibc's own rule ends there, too."""


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


def hold_between_passes() -> None:
    """Keep what is free for the next tensors, until `give_back`.

    By default glibc gives memory back while a pass is computed, as soon as twice its largest tensor is free, and takes
    it again for the next layers: some 20,000 pages a prompt of the demo model, each of which the system fills with
    zeros.
    """
    if set_option := _function("mallopt"):
        set_option(_MMAP_THRESHOLD, LARGE_BYTES)
        set_option(_TRIM_THRESHOLD, HELD_BYTES)


@contextlib.contextmanager
def given_back(seconds: float = SECONDS) -> Iterator[None]:
    """Give back what is free, again and again while the `with` lasts, in a thread of its own; and not before.

    Args:
        seconds: between two times; nothing is done where the process has not worked between them.
    """
    hold_between_passes()
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
