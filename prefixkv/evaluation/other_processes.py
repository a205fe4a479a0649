"""Further processes of this machine that measure samples with the one that was called. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from typing import Any

from prefixkv.children import FAILURE, Child, Children
from prefixkv.evaluation.data import DataSource
from prefixkv.workers import is_launched

MEASURED = "measured"
"""The kind of message by which a process says what it has spent, its last one."""
SAMPLES_PER_PROCESS = 8
"""A further process is worth its start for so many samples."""


def further_processes(source: DataSource, processes: int | None) -> Children:
    """The processes that can be started before anything is known but what was asked.

    Args:
        source: where the samples come from.
        processes: that were asked for; none are further ones where that is left to the machine and the model.

    Returns:
        Processes that are not started yet; none where a launcher has started some.
    """
    count = 0 if processes is None or is_launched() else processes - 1
    if source.kind in ("scenes", "followups", "documents") and source.count is not None:
        count = min(count, source.count // SAMPLES_PER_PROCESS)
    return _children(count)


def no_processes() -> Children:
    """None yet; `OtherProcesses.measure` starts as many as it is asked for."""
    return _children(0)


def _children(count: int) -> Children:
    return Children(count, "prefixkv.evaluation.run", "measure_with_others")


class OtherProcesses:
    """The further processes from their task to what they say at the end; ended with the `with`.

    Attributes:
        has_lost: whether one has died; what it had taken is not measured.
    """

    def __init__(self, children: Children, notify: Callable[[str], None]) -> None:
        """Nothing is told yet.

        Args:
            children: started.
            notify: called with one line when a process has died.
        """
        self._children, self._notify, self.has_lost = children, notify, False
        self._working: dict[int, Child] = {}
        self._found: dict[int, Any] = {}
        self._tasks: Callable[[int], Any] = lambda number: None

    def __enter__(self) -> OtherProcesses:
        """Work with them."""
        return self

    def __exit__(self, *reason: object) -> None:
        """End those that still run."""
        self._children.end()

    def prepare(self, evaluation: Any, devices: Sequence[str]) -> None:
        """Have them load the model and read the samples.

        Args:
            evaluation: what is to be evaluated.
            devices: names of those that processes are placed on in turn, this one, number 0, on the first.
        """
        self._tasks = lambda number: (evaluation, devices[number % len(devices)], number)
        self._tell()

    def measure(self, count: int, task: Any) -> None:
        """Have so many measure: of those that are there, or as many new ones where those are too few.

        Args:
            count: how many.
            task: what each is told.
        """
        if count > len(self._children.every):
            self._children.end()
            self._children = _children(count)
            self._children.start()
            self._tell()
        for child in self._children.every[count:]:
            child.end()
        self._working = dict(enumerate(self._children.every[:count], 1))
        for child in self._working.values():
            child.send(task)

    def _tell(self) -> None:
        for number, child in enumerate(self._children.every, 1):
            child.send(self._tasks(number))

    def check(self) -> None:
        """Hear what they have said by now.

        Raises:
            PrefixKVError: one has failed.
        """
        self._hear(0)

    def wait(self) -> list[Any]:
        """Until all have finished.

        Returns:
            What each has said at its end, by number, without those that have died.

        Raises:
            PrefixKVError: one has failed.
        """
        while self._working:
            self._hear(None)
        return [self._found[number] for number in sorted(self._found)]

    def _hear(self, timeout: float | None) -> None:
        by_pipe = {child.ours: number for number, child in self._working.items()}
        for pipe in wait(list(by_pipe), timeout):
            number = by_pipe[pipe]  # type: ignore[index]
            child = self._working.pop(number)
            try:
                kind, content = child.ours.recv()
            except (EOFError, OSError):
                child.process.join()
                self.has_lost = True
                self._notify(
                    f"a process has ended with code {child.process.exitcode}, perhaps for lack of memory: the samples "
                    "that it had taken are measured by another"
                )
            else:
                if kind == FAILURE:
                    raise content
                self._found[number] = content
