"""The engine's work: read what may be read, take a step with all that run, hand out the tokens. One thread does it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.engine.kept import KeptCache, KeptCaches, kept_cache
from prefixkv.engine.memory import told
from prefixkv.engine.pauses import PassInterruptedError, pauses
from prefixkv.engine.prefix import Prefixes
from prefixkv.engine.reader import read
from prefixkv.engine.request import Request
from prefixkv.engine.scheduler import Scheduler
from prefixkv.engine.stepper import Stepper
from prefixkv.engine.stream import FinishReason, Stream
from prefixkv.engine.trace import Trace
from prefixkv.errors import DeviceMemoryError
from prefixkv.generation.logprobs import Logprobs

AHEAD = 1
"""Steps that a device which replays them by itself has queued while the host hands out tokens: so many tokens a row may
read beyond the end of its answer, before its end is noticed."""
LOOK_SECONDS = 1.0
"""Between two counts of the bytes that are in use."""


class Worker:
    """Works while there are requests.

    Attributes:
        scheduler: says what is done next; touched under `lock` only.
        prefixes: what several requests begin with.
        kept: caches that later prompts may go on from.
        lock: held for a moment at a time, never while the model computes.
        used_bytes: that running rows held when they were last looked at.
        generated_tokens: given to all streams so far.
    """

    def __init__(
        self, model: Any, scheduler: Scheduler[Request], most_rows: int, trace: Trace, notify: Callable[[str], None]
    ) -> None:
        self.scheduler, self.lock = scheduler, threading.Lock()
        self.prefixes, self.kept = Prefixes(model, scheduler.ledger), KeptCaches(scheduler.ledger)
        self._model, self._trace = model, trace
        self._new_stepper = partial(Stepper, model, most_rows, notify)
        self._stepper = self._new_stepper()
        # By place, the requests of each step that is queued, the oldest first.
        self._queued: deque[dict[int, Request]] = deque()
        self._thread: threading.Thread | None = None
        self._untold: list[Stream] = []  # With tokens of which nobody was told yet.
        # The request whose prompt is read, while the model computes for it and not for a step between.
        self._reading: Request | None = None
        self.used_bytes, self.generated_tokens, self._looked_at = 0, 0, 0.0

    def start(self) -> None:
        """See to it that a thread works; called under the lock."""
        if self._thread is None:
            # A daemon, so that a program may end whose answers nobody waits for.
            self._thread = threading.Thread(target=self._work, name="prefixkv-engine", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Wait until there is no request."""
        if (thread := self._thread) is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        try:
            with torch.no_grad(), attention.installed(self._model), pauses(self._model, self._pause):
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
            self.prefixes.settle(self.scheduler.waiting)
            if is_idle := self.scheduler.is_idle:
                self._thread = None
            return is_idle

    def _turn(self) -> None:
        self._interrupt()
        with self.lock:
            request = self.scheduler.next_to_read()
            earlier = self.kept.find(request.name) if request is not None and request.name is not None else None
            is_shared = request is not None and earlier is None and self.prefixes.offer(request, self.scheduler.waiting)
            reserved = self.scheduler.ledger.reserved_bytes
        if request is not None:
            self._trace.moment("admission", request=request.number, reserved_bytes=reserved)
            self._read(request, is_shared, earlier)
        with self.lock:
            reads_on = request is not None and self.scheduler.may_read()
        if self.scheduler.running and not reads_on:
            self._step()
        if not self.scheduler.running:
            self._hand_out(0)

    def _interrupt(self) -> None:
        """End what was cancelled and what is too late."""
        with self.lock:
            requests = [request for request in self.scheduler.all() if request is not self.scheduler.reading]
        for request in requests:
            if reason := request.interruption():
                self._end(request, reason)

    def _pause(self, tokens: float) -> None:
        """Running rows take the steps that are due before a part of a prompt is read that is so many tokens' work.

        Raises:
            PassInterruptedError: the prompt need not be read on.
        """
        request = self._reading
        if request is None:
            return
        self._reading = None
        while self.scheduler.must_step(tokens):
            self._interrupt()
            self._step()
        if reason := request.interruption():
            raise PassInterruptedError(reason)
        self.scheduler.count_read(tokens)
        self._reading = request

    def _read(self, request: Request, is_shared: bool, earlier: KeptCache | None) -> None:
        failure: Exception | None = None
        self._tell()
        self._reading = request
        try:
            with self._trace.span("read", request=request.number, tokens=request.prompt_tokens, shared=is_shared):
                prefix = self.prefixes.entries(request) if is_shared else None
                token, logprobs = read(self._model, request, AHEAD, prefix, earlier, self._while_read)
        except Exception as error:  # whatever it is, it is this request's own
            failure = told(error, self._model.device)
        self._reading = None
        # Out here, where an exception no longer holds on to the tensors of the pass that failed.
        if failure is not None:
            self._give_up(request, failure)
            return
        with self.lock:
            self.scheduler.run(request)
        self._give(request, token, logprobs)
        if request.stream.is_done:
            return
        try:
            request.place = self._stepper.join(request.row, token, request.sampling, 1, request.shaping)
        except Exception as error:  # the rows that run go on
            failure = told(error, self._model.device)
        if failure is not None:
            self._leave(request)
            request.stream.fail(failure)

    def _while_read(self) -> None:
        """All of a prompt is queued: a device is given the step that is due before the first token is waited for."""
        step = self._step if self.scheduler.owes_step and self._stepper.is_captured else partial(self._hand_out, 0)
        step()

    def _give_up(self, request: Request, failure: Exception) -> None:
        """The prompt could not be read, or need not be: it waits for memory if others run, else it has failed."""
        request.row.reset()
        if isinstance(failure, PassInterruptedError):
            self._end(request, failure.reason)
            return
        with self.lock:
            # What others begin with is not worth the memory; alone it is tried once more.
            has_shared, request.shared = request.shared is not None and self.prefixes.bytes > 0, None
            self.prefixes.clear()
            if isinstance(failure, DeviceMemoryError) and (self.scheduler.running or has_shared):
                self.scheduler.put_back(request)
                return
            self.scheduler.end(request)
        request.stream.fail(failure)

    def _step(self) -> None:
        """Queue a step of all rows that need one, and hand out the tokens of the one before it.

        While the host does that, the device computes. One that does not replay steps by itself has nothing ahead.
        """
        with self._trace.span("step", rows=len(self.scheduler.running)):
            failure: Exception | None = None
            try:
                is_queued = self._queue()
            except Exception as error:
                failure = error
            if failure is not None:
                self._abandon(failure)
                return
            self._hand_out(AHEAD if is_queued and self._stepper.is_captured else 0)
        self._trace.count("rows", running=len(self.scheduler.running))
        if (now := time.perf_counter()) - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self.used_bytes = sum(request.row.stored_bytes for request in self.scheduler.running.values())

    def _abandon(self, failure: Exception) -> None:
        """A step has failed, so that no row can go on: those whose last token is there end, the others have failed."""
        self._hand_out(0)
        for request in (stepped := list(self.scheduler.running.values())):
            self._leave(request)
        # The step may have stopped anywhere: what its places hold is not known.
        self._stepper, self._queued = self._new_stepper(), deque()
        failure = told(failure, self._model.device)
        for request in stepped:
            request.stream.fail(failure)

    def _queue(self) -> bool:
        """Queue a step of the rows that need a further token; says whether there is one."""
        running = self.scheduler.running.values()
        for request in running:
            if request.has_all_steps:
                self._vacate(request)
        stepping = {request.place: request for request in running if request.place >= 0}
        if not stepping:
            return False
        self._stepper.advance()
        self.scheduler.count_step()
        self._queued.append(stepping)
        for request in stepping.values():
            request.queued += 1
        return True

    def _hand_out(self, left: int) -> None:
        """Wait for the tokens of queued steps and give them to their requests, until so many steps are left."""
        # Those who are told have the interpreter while this thread waits for the device.
        self._tell()
        while len(self._queued) > left:
            stepped, tokens = self._queued.popleft(), self._stepper.tokens()
            self._trace.count("bytes", reserved=self.scheduler.ledger.reserved_bytes)
            for place, request in stepped.items():
                request.queued -= 1
                if request.number in self.scheduler.running:
                    self._give(request, tokens[place], self._stepper.logprobs.get(place))
        if not left:
            self._tell()

    def _give(self, request: Request, token: int, logprobs: Logprobs | None) -> None:
        """Give a request a token, which may be its last."""
        self.generated_tokens += 1
        self._untold.append(request.stream)
        if reason := request.push(token, logprobs):
            self._end(request, reason)

    def _tell(self) -> None:
        """Tell of the tokens that were handed out."""
        untold, self._untold = self._untold, []
        for stream in untold:
            stream.tell()

    def _end(self, request: Request, reason: FinishReason) -> None:
        row, kept = request.row, None
        if request.name is not None and reason in ("stop", "length"):
            self._vacate(request)
            # A step that was queued ahead has read the answer's last token, too.
            kept = kept_cache(request.name, row, request.stream.tokens)
        row.discount_steps(request.queued)
        usage = row.usage() if row.seen_tokens else None
        self._leave(request)
        if kept is not None:
            with self.lock:
                self.kept.keep(kept)
        request.stream.end(reason, usage)

    def _leave(self, request: Request) -> None:
        """Free what a request holds."""
        self._vacate(request)
        request.row.reset()
        with self.lock:
            self.scheduler.end(request)
        self._trace.moment("end", request=request.number)

    def _vacate(self, request: Request) -> None:
        """Let its row take no further step."""
        if request.place >= 0:
            self._stepper.leave(request.place)
            request.place = -1
