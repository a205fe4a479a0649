"""The thread that works for an engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.engine.beside import ReaderBeside
from prefixkv.engine.memory import told
from prefixkv.engine.pauses import pauses
from prefixkv.engine.request import Request
from prefixkv.engine.scheduler import Scheduler
from prefixkv.engine.trace import Trace
from prefixkv.engine.turns import Turns


class Worker(Turns):
    """Takes turns while there are requests, in a thread of its own."""

    def __init__(
        self, model: Any, scheduler: Scheduler[Request], most_rows: int, trace: Trace, notify: Callable[[str], None]
    ) -> None:
        """Begin without a thread; as for `Turns`."""
        super().__init__(model, scheduler, most_rows, trace, notify)
        # The one that works, and the newest one, which may have nothing to do any more but to end.
        self._thread: threading.Thread | None = None
        self._newest: threading.Thread | None = None

    def start(self) -> None:
        """See to it that a thread works; called under the lock."""
        if self._thread is None:
            # A daemon, so that a program may end whose answers nobody waits for.
            self._thread = threading.Thread(target=self._work, name="prefixkv-engine", daemon=True)
            self._newest = self._thread
            self._thread.start()

    def join(self) -> None:
        """Wait until there is no request, and no thread: none must compute where the interpreter ends."""
        if (thread := self._newest) is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        self._beside = ReaderBeside()
        beside = self._beside.opened(self._model) if self.scheduler.readers > 1 else nullcontext()
        try:
            with torch.no_grad(), attention.installed(self._model), pauses(self._model, self._pause), beside:
                while not self._has_finished():
                    self._turn()
        except Exception as error:
            self._fail_all(told(error, self._model.device))

    def _fail_all(self, failure: Exception) -> None:
        """End every request: nobody must wait for what does not come. Requests that follow find everything free."""
        # What its steps were doing is not known.
        self._stepper, self._queued, self._untold = self._new_stepper(), deque(), []
        with self.lock:
            self._thread = None
            self.prefixes.clear()
            self.kept.clear()
            requests = self.scheduler.all()
            for request in requests:
                request.place = -1
                request.row.reset()
                self.scheduler.end(request)
        for request in requests:
            request.stream.fail(failure)

    def _has_finished(self) -> bool:
        with self.lock:
            self.kept.settle(self.scheduler.waiting)
            self.prefixes.settle(self.scheduler.waiting, self.scheduler.reading.values())
            if is_idle := self.scheduler.is_idle:
                self._thread = None
            return is_idle
