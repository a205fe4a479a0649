"""The further processes of an evaluation: what they are told, what they say, and how one is missed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any

import pytest

from prefixkv.children import FAILURE, Child, Children
from prefixkv.errors import PrefixKVError
from prefixkv.evaluation import other_processes
from prefixkv.evaluation.data import DataSource
from prefixkv.evaluation.other_processes import MEASURED, OtherProcesses, further_processes, no_processes


class Process:
    """Stands for a process."""

    exitcode, pid = -9, 1

    def is_alive(self) -> bool:
        return False

    def start(self) -> None: ...

    def join(self) -> None: ...


class Waiting(Children):
    """Children whose ends of the pipes are here, in `theirs`."""

    def __init__(self, count: int) -> None:
        ends = [Pipe() for _ in range(count)]
        self.every = [Child(Process(), ours, theirs) for ours, theirs in ends]
        self.theirs: list[Any] = [theirs for _, theirs in ends]

    def start(self) -> None: ...


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def others(said: list[str]) -> Iterator[tuple[OtherProcesses, list[Connection]]]:
    children = Waiting(3)
    with OtherProcesses(children, said.append) as found:
        found.prepare("evaluation", ["cuda:0", "cuda:1"])
        yield found, children.theirs


def test_each_is_told_its_place_and_then_what_to_measure(
    others: tuple[OtherProcesses, list[Connection]], said: list[str]
) -> None:
    found, (first, second, third) = others
    assert [end.recv() for end in (first, second, third)] == [
        ("evaluation", "cuda:1", 1),
        ("evaluation", "cuda:0", 2),
        ("evaluation", "cuda:1", 3),
    ]
    found.measure(2, "task")
    assert (first.recv(), second.recv()) == ("task", "task")
    with pytest.raises(EOFError):
        third.recv()
    found.check()
    second.send((MEASURED, "second"))
    found.check()
    first.send((MEASURED, "first"))
    assert found.wait() == ["first", "second"]
    assert (said, found.has_lost) == ([], False)


def test_one_that_has_died_is_told_of_once(others: tuple[OtherProcesses, list[Connection]], said: list[str]) -> None:
    found, (first, second, _) = others
    found.measure(2, "task")
    first.close()
    found.check()
    second.send((MEASURED, "second"))
    assert found.wait() == ["second"]
    assert found.has_lost
    (line,) = said
    assert line.startswith("a process has ended with code -9, perhaps for lack of memory")


def test_what_one_has_raised_is_raised(others: tuple[OtherProcesses, list[Connection]]) -> None:
    found, (first, *_) = others
    found.measure(1, "task")
    first.send((FAILURE, PrefixKVError("no room")))
    with pytest.raises(PrefixKVError, match="no room"):
        found.check()


def test_where_there_are_too_few_new_ones_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Waiting(2)
    monkeypatch.setattr(other_processes, "_children", lambda count: started)
    with OtherProcesses(Waiting(1), pytest.fail) as found:
        found.prepare("evaluation", ["cpu"])
        found.measure(2, "task")
        assert [(end.recv(), end.recv()) for end in started.theirs] == [
            (("evaluation", "cpu", 1), "task"),
            (("evaluation", "cpu", 2), "task"),
        ]


def test_no_more_are_started_early_than_may_be_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(data: str, processes: int | None) -> int:
        return len(further_processes(DataSource.parse(data), processes).every)

    assert len(no_processes().every) == 0
    assert [count("scenes:40", processes) for processes in (None, 1, 2, 9)] == [0, 0, 1, 5]
    assert count("scenes:7", 2) == 0
    # A needle's count is of texts, each of which is asked about several times.
    assert count("needle", 3) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count("scenes:40", 2) == 0


def doubled(pipe: Connection, number: int) -> None:
    pipe.send((MEASURED, (2 * number, os.getpid())))
    if pipe.recv() == "fail":
        raise KeyError(number)


@pytest.mark.exhaustive
def test_processes_import_their_work_do_it_and_say_what_they_raise() -> None:
    with Children(2, __name__, "doubled") as children:
        children.start()
        for number, child in enumerate(children.every):
            child.send((number,))
        found = [child.ours.recv()[1] for child in children.every]
        assert [number for number, _ in found] == [0, 2]
        assert len({os.getpid(), *(pid for _, pid in found)}) == 3
        for child in children.every:
            child.send("fail")
        kind, error = children.every[1].ours.recv()
        assert (kind, str(error)) == (FAILURE, "KeyError: 1")
