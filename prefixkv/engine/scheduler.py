"""Scheduling: which request is read next, and when; which run. Pure: nothing here knows of tensors or of time.

Requests are read in the order in which they came. The first that waits is never passed by, so that none starves,
however large it is; those that run make room for it by ending.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Generic, Protocol, TypeVar

from prefixkv.engine.admission import Footprint, Ledger


class Scheduled(Protocol):
    """What a scheduler must know of a request."""

    @property
    def number(self) -> int:
        """Its own."""

    @property
    def prompt_tokens(self) -> int:
        """Of its prompt."""

    @property
    def footprint(self) -> Footprint:
        """Its bytes."""


R = TypeVar("R", bound=Scheduled)

FREE_PLACE = 32
"""A place that waits for a further prompt counts as so many rows that wait for their step."""
MOST_EAGER = 64
"""The allowance is exceeded by this factor at most."""
SHORT_EAGER = 3
"""And by this one for a short prompt: while its host is at that a GPU has the time for about two steps."""
ENOUGH = 16
"""Rows whose step takes hardly longer for each of them than that of more: beside a prompt that is read they
step, rather than that a second one is read."""


class Scheduler(Generic[R]):
    """Waiting, reading, running.

    Attributes:
        ledger: the bytes that are reserved.
        waiting: those that were not read yet, the oldest first.
        reading: those whose prompts are read, by number.
        running: those that decode, by number.
        readers: prompts that may be read at the same time.
    """

    def __init__(
        self, ledger: Ledger, most_rows: int, allowance: int | None, short_tokens: int = 0, readers: int = 1
    ) -> None:
        """Begin with no request.

        Args:
            ledger: of the memory.
            most_rows: that run at the same time.
            allowance: prompt tokens that may be read between two steps of running rows, while few others wait; where
                one part of a pass is of more, it is followed by as many steps as its allowances. None: no steps
                between.
            short_tokens: a prompt of no more keeps the host busy for longer than the device.
            readers: prompts that may be read at the same time, the last of them in the stead of steps.
        """
        self.ledger = ledger
        self.waiting: deque[R] = deque()
        self.reading: dict[int, R] = {}
        self.running: dict[int, R] = {}
        self._most_rows, self._allowance, self._short_tokens = most_rows, allowance, short_tokens
        self.readers = readers
        self._debt = 0.0
        self._is_held = False

    @property
    def is_idle(self) -> bool:
        """Whether there is no request."""
        return not self.waiting and not self.reading and not self.running

    def all(self) -> list[R]:
        """All requests."""
        return [*self.waiting, *self.reading.values(), *self.running.values()]

    def add(self, request: R) -> None:
        """Have a request wait.

        Raises:
            BudgetTooSmallError: it does not fit the memory even alone.
        """
        self.ledger.check(request.footprint, request.prompt_tokens)
        self.waiting.append(request)

    def may_read(self) -> bool:
        """Whether the first that waits can be read now; else running rows take a step first."""
        if not self.waiting or len(self.reading) == self.readers:
            return False
        if len(self.reading) + len(self.running) >= self._most_rows or (self.reading and len(self.running) >= ENOUGH):
            return False
        if self.running and (self._debt > 0 or self._is_held):
            return False
        return self.ledger.fits(self.waiting[0].footprint)

    def next_to_read(self) -> R | None:
        """The request that is to be read now, its bytes reserved; None where none can be."""
        if not self.may_read():
            return None
        request = self.waiting.popleft()
        self.ledger.begin(request.number, request.footprint)
        self.reading[request.number] = request
        return request

    def run(self, request: R) -> None:
        """The request's prompt is read: from now on it takes steps."""
        self.running[request.number] = self.reading.pop(request.number)
        self.ledger.run(request.number, request.footprint)

    def put_back(self, request: R) -> None:
        """The request could not be read beside those that run: it is tried again when one of them has ended."""
        del self.reading[request.number]
        self.ledger.end(request.number)
        self.waiting.appendleft(request)
        self._is_held = True

    @property
    def allowance(self) -> float | None:
        """Prompt tokens that may be read between two steps now.

        A step takes about as long for few rows as for many. So the more places are free beside those that run, for
        which there are prompts, the more is read first; a single prompt takes nothing from the rows that run. While the
        host is busy with a short prompt a device computes the steps between its parts beside them, at no cost.
        """
        if self._allowance is None or not self.running:
            return None
        unread = len(self.waiting) + len(self.reading)
        others = max(0, min(unread, self._most_rows - len(self.running)) - 1)
        first = next(iter([*self.reading.values(), *itertools.islice(self.waiting, 1)]), None)
        is_short = first is not None and first.prompt_tokens <= self._short_tokens
        most = SHORT_EAGER if is_short else MOST_EAGER
        return self._allowance * min(most, 1 + FREE_PLACE * others / len(self.running))

    @property
    def owes_step(self) -> bool:
        """Whether running rows are owed a step for what was read."""
        return bool(self.running) and self._debt > 0

    def must_step(self, tokens: float) -> bool:
        """Whether running rows take a step before a part of a prompt is read whose work is that of so many tokens."""
        allowance = self.allowance
        return allowance is not None and self._debt > 0 and self._debt + tokens > allowance

    def count_read(self, tokens: float) -> None:
        """A part of a prompt is read whose work is that of so many tokens; rows that run are owed steps for it."""
        if self._allowance is not None and self.running:
            self._debt += tokens

    def count_step(self) -> None:
        """The running rows take a step."""
        self._debt = max(0.0, self._debt - (self.allowance or self._debt))

    def end(self, request: R) -> None:
        """Forget a request, in whichever state it is, and free its bytes at once."""
        if self.reading.pop(request.number, None) is not None:
            self.ledger.end(request.number)
        elif self.running.pop(request.number, None) is not None:
            self.ledger.end(request.number)
            self._is_held = False
        else:
            self.waiting.remove(request)
        if not self.running:
            self._debt = 0.0
