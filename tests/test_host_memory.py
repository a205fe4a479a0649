"""Free memory of the host goes back to the system, and threads take it from one place."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
import time

import pytest

from prefixkv import host_memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this system has another C library")
HOLES = """
import ctypes, threading
import psutil
from prefixkv import host_memory
glibc = ctypes.CDLL(None)
glibc.malloc.restype, glibc.malloc.argtypes, glibc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def make_holes():
    holes = []
    for _ in range(1000):
        holes.append(glibc.malloc(60_000))
        ctypes.memset(holes[-1], 1, 60_000)
        glibc.malloc(64)
    for hole in holes:
        glibc.free(hole)
def make_holes_in_a_thread():
    thread = threading.Thread(target=make_holes)
    thread.start()
    thread.join()
"""
"""60 MB are freed, between small pieces that stay."""
PASSES = """
import resource
for _ in range(10):
    tensors = [glibc.malloc(5_000_000) for _ in range(8)]
    for tensor in tensors:
        ctypes.memset(tensor, 1, 5_000_000)
    for tensor in tensors:
        glibc.free(tensor)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""
"""40 MB, some 10,000 pages, are taken and freed, ten times; prints how many pages had to be made in all."""


def run(*lines: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that goes on with these lines."""
    program = [sys.executable, "-c", "\n".join([HOLES, *lines])]
    return subprocess.run(program, check=True, capture_output=True, text=True)


@needs_glibc
@pytest.mark.parametrize(("line", "holds_much"), [("", True), ("host_memory.give_back()", False)])
def test_holes_between_what_stays_are_given_back(line: str, holds_much: bool) -> None:
    resident = "psutil.Process().memory_info().rss"
    done = run(f"before = {resident}", "make_holes_in_a_thread()", line, f"print({resident} - before)")
    assert (int(done.stdout) > 30e6) == holds_much


@needs_glibc
@pytest.mark.parametrize(("line", "arenas"), [("", 2), ("host_memory.share_one_arena()", 1)])
def test_threads_take_memory_from_one_place(line: str, arenas: int) -> None:
    done = run(line, "make_holes_in_a_thread()", "glibc.malloc_stats()")
    assert done.stderr.count("Arena") == arenas


@needs_glibc
@pytest.mark.parametrize(("line", "is_held"), [("", False), ("host_memory.hold_between_passes()", True)])
def test_what_is_free_is_held_between_passes(line: str, is_held: bool) -> None:
    done = run("host_memory.share_one_arena()", line, PASSES)
    assert (int(done.stdout) < 40_000) == is_held
    resident = "psutil.Process().memory_info().rss"
    done = run(line, PASSES, "host_memory.give_back()", f"print({resident})")
    assert int(done.stdout.split()[-1]) < 50e6


def test_it_is_given_back_while_there_is_work_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    was_given, worked = threading.Event(), [0.0]
    monkeypatch.setattr(host_memory, "give_back", was_given.set)
    monkeypatch.setattr(host_memory.time, "process_time", lambda: worked[0])
    with host_memory.given_back(0.01):
        assert not was_given.wait(0.1)
        worked[0] = 1.0
        assert was_given.wait(5)
        was_given.clear()
        assert not was_given.wait(0.1)
    worked[0] = 2.0
    time.sleep(0.05)
    assert not was_given.is_set()
