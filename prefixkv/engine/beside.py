"""A thread that reads one prompt while another is read or steps are taken: two cores of a CPU compute more apart.

A pass that reads a prompt is a few large operations, a step many small ones, which gain nothing where each is divided
among cores.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from prefixkv.engine.pauses import pauses
from prefixkv.engine.reader import Outcome
from prefixkv.engine.request import Request


class ReaderBeside:
    """The other thread, and what it reads.

    Attributes:
        request: that it was given and that nobody has taken back; None where there is none.
    """

    def __init__(self) -> None:
        """Begin without a thread."""
        self.request: Request | None = None
        self._found: Future[Outcome] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._cores = 1

    @contextlib.contextmanager
    def opened(self, model: Any) -> Iterator[None]:
        """Have the thread while the `with` lasts, at the end of which nothing is read any more.

        Args:
            model: inside `prefixkv.cache.attention.installed`. The thread that calls ends with the `with`.
        """
        self.request = self._found = None
        self._cores = torch.get_num_threads()
        with ThreadPoolExecutor(1, "prefixkv-reader") as pool:
            thread = pool.submit(threading.get_ident).result()
            with pauses(model, self._pause, thread):
                self._pool = pool
                try:
                    yield
                finally:
                    self._pool = None
                    pool.shutdown()

    def take_cores(self) -> None:
        """Have operations of the thread that calls use all cores or, while a prompt is read beside it, half of them."""
        if self._pool is not None:
            self._use(self._cores if self.is_free else self._cores // 2)

    def _pause(self, tokens: float) -> None:
        if self.request is not None:
            self.request.check_is_wanted()

    @property
    def is_free(self) -> bool:
        """Whether it may be given a prompt."""
        return self._pool is not None and self.request is None

    def begin(self, request: Request, read: Callable[[], Outcome]) -> None:
        """Have a prompt read.

        Args:
            request: whose it is.
            read: does it, and raises nothing.
        """

        def call() -> Outcome:
            self._use(self._cores // 2)
            with torch.no_grad():
                return read()

        assert self._pool is not None
        self.request, self._found = request, self._pool.submit(call)
        # Also where this thread is reading with all of them.
        self.take_cores()

    def taken(self, wait: bool) -> tuple[Request, Outcome] | None:
        """The request that was read, and what that has given; the thread is free then.

        Args:
            wait: whether one that is still read is waited for.

        Returns:
            None where nothing was read to its end.
        """
        if self._found is None or self.request is None or not (wait or self._found.done()):
            return None
        found = self.request, self._found.result()
        self.request = self._found = None
        return found

    def _use(self, cores: int) -> None:
        """Have operations of this thread, and of no other, use so many cores."""
        if torch.get_num_threads() != cores:
            torch.set_num_threads(cores)
            # That is also what threads begin with which compute for the first time: another thread sets it back.
            other = threading.Thread(target=torch.set_num_threads, args=(self._cores,))
            other.start()
            other.join()


def readers_on(device: torch.device, allowance: int | None) -> int:
    """Prompts that are read at the same time: two on several cores of a CPU, else one.

    Args:
        device: of the model.
        allowance: prompt tokens that may be read between two steps; with one, the thread that takes the steps reads.
    """
    return 2 if device.type == "cpu" and allowance is None and torch.get_num_threads() > 1 else 1
