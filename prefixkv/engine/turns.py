"""The turns of an engine's work: read what may be read, take a step with all that run, hand out the tokens."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from prefixkv.engine.beside import ReaderBeside
from prefixkv.engine.kept import KeptCaches, kept_cache
from prefixkv.engine.memory import told
from prefixkv.engine.pauses import PassInterruptedError
from prefixkv.engine.prefix import Prefixes
from prefixkv.engine.reader import Outcome, Unread
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


class Turns:
    """What is done turn by turn, in one thread; on a CPU another may read a prompt beside it.

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
        self._untold: list[Stream] = []  # With tokens of which nobody was told yet.
        # The request whose prompt is read, while the model computes for it and not for a step between.
        self._reading: Request | None = None
        self._beside = ReaderBeside()
        self.used_bytes, self.generated_tokens, self._looked_at = 0, 0, 0.0

    def _turn(self) -> None:
        self._interrupt()
        self._read_beside()
        if (prompt := self._next_prompt()) is not None:
            self._read(prompt)
        with self.lock:
            reads_on = prompt is not None and self.scheduler.may_read()
        if self.scheduler.running and not reads_on:
            self._step()
        if not self.scheduler.running:
            self._hand_out(0)
            if prompt is None:
                self._take_over(wait=True)

    def _next_prompt(self) -> Unread | None:
        """What is to be read now, if anything, with the bytes that it takes reserved."""
        with self.lock:
            if self.prefixes.is_awaited(self.scheduler.waiting, self.scheduler.reading.values()):
                return None
            request = self.scheduler.next_to_read()
            if request is None:
                return None
            earlier = None if request.name is None else self.kept.find(request.name)
            is_shared = earlier is None and self.prefixes.offer(request, self.scheduler.waiting)
            reserved = self.scheduler.ledger.reserved_bytes
        self._trace.moment("admission", request=request.number, reserved_bytes=reserved)
        return Unread(request, self.prefixes if is_shared else None, earlier)

    def _interrupt(self) -> None:
        """End what was cancelled and what is too late."""
        with self.lock:
            requests = [each for each in self.scheduler.all() if each.number not in self.scheduler.reading]
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
        self._read_beside()
        while self.scheduler.must_step(tokens):
            self._interrupt()
            self._step()
        request.check_is_wanted()
        self.scheduler.count_read(tokens)
        self._reading = request

    def _read(self, prompt: Unread) -> None:
        self._tell()
        self._reading = prompt.request
        self._beside.take_cores()
        outcome = prompt.outcome(self._model, AHEAD, self._trace, self._while_read)
        self._reading = None
        self._begin(prompt.request, outcome)

    def _read_beside(self) -> None:
        """Have the other thread read, if there is one that does not: of several prompts, or while rows take steps."""
        self._take_over(wait=False)
        is_beside = bool(self.scheduler.running) or len(self.scheduler.waiting) + len(self.scheduler.reading) > 1
        if self._beside.is_free and is_beside and (prompt := self._next_prompt()) is not None:
            self._beside.begin(prompt.request, partial(prompt.outcome, self._model, AHEAD, self._trace))

    def _take_over(self, wait: bool) -> None:
        """Have the request run whose prompt the other thread has read; may wait for it."""
        if (found := self._beside.taken(wait)) is not None:
            self._begin(*found)

    def _begin(self, request: Request, outcome: Outcome) -> None:
        """A prompt was read: its row takes steps from now on."""
        # Out here, where an exception no longer holds on to the tensors of the pass that failed.
        if isinstance(outcome, Exception):
            self._give_up(request, outcome)
            return
        token, logprobs = outcome
        with self.lock:
            self.scheduler.run(request)
        self._give(request, token, logprobs)
        if request.stream.is_done:
            return
        try:
            request.place = self._stepper.join(request.row, token, request.sampling, 1, request.shaping)
        except Exception as error:  # the rows that run go on
            failure = told(error, self._model.device)
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
            self.prefixes.clear(self.scheduler.reading.values())
            has_others = bool(self.scheduler.running) or len(self.scheduler.reading) > 1
            if isinstance(failure, DeviceMemoryError) and (has_others or has_shared):
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
        self._beside.take_cores()
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
