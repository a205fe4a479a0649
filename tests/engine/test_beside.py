"""Two prompts are read at the same time on two cores, and steps are taken beside them: every answer as alone."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.engine import reader
from prefixkv.engine.admission import Footprint, Ledger
from prefixkv.engine.scheduler import ENOUGH, Scheduler
from prefixkv.engine.stream import Stream
from tests import tiny
from tests.engine.test_admission import Asked
from tests.engine.test_prefix import alone, ask, prompts


@contextlib.contextmanager
def cores(count: int = 2) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava(layers=4)


def pictures(count: int) -> list[dict[str, torch.Tensor]]:
    """Three prompts for each of some pictures."""
    return [prompt for seed in range(count) for prompt in prompts(3, picture_seed=seed)]


def threads_here() -> list[int]:
    """How many cores operations of this thread use, and those of one that begins now."""
    found = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    return found


@pytest.mark.parametrize("method", ["h2o", "guided"])
@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
def test_two_threads_read_each_part_once_and_every_answer_is_as_alone(model: Any, method: str, tmp_path: Path) -> None:
    asked, path = pictures(3), tmp_path / "trace.json"
    expected = [alone(model, inputs, "20%", method) for inputs in asked]
    with cores(), prefixkv.Engine(model, method, "40MiB", most_rows=5, allowance=None, trace=path) as engine:
        assert [stream.result(60) for stream in ask(engine, asked, "20%")] == expected
        assert threads_here() == [2, 2]
    assert (engine.prefixes.read, engine.prefixes.bytes, engine.reserved_bytes) == (3, 0, 0)
    events = [event for event in json.loads(path.read_text()) if event]
    assert len({event["tid"] for event in events if event["name"] == "read"}) == 2


def test_each_thread_has_half_of_the_cores_and_a_prompt_alone_has_all(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, does, used = pictures(2), reader.read, list[tuple[str, int]]()

    def read(*arguments: Any) -> Any:
        used.append((threading.current_thread().name.split("_")[0], torch.get_num_threads()))
        return does(*arguments)

    monkeypatch.setattr(reader, "read", read)
    with cores(4), prefixkv.Engine(model, "h2o", "40MiB", allowance=None) as engine:
        for stream in ask(engine, asked, "20%"):
            stream.result(60)
        assert {("prefixkv-reader", 2), ("prefixkv-engine", 2)} <= {*used}
        used.clear()
        ask(engine, asked[:1], "20%")[0].result(60)
    assert used == [("prefixkv-engine", 4)]


def test_no_thread_of_a_closed_engine_is_left(model: Any) -> None:
    others = set(threading.enumerate())
    for _ in range(5):
        with cores(), prefixkv.Engine(model, "h2o", "40MiB", allowance=None) as engine:
            for stream in ask(engine, prompts(2), "20%"):
                stream.result(60)
        left = set(threading.enumerate()) - others
        assert not [thread for thread in left if thread.name.startswith("prefixkv-")]


def test_with_an_allowance_or_one_core_one_thread_reads(model: Any) -> None:
    with cores():
        assert prefixkv.Engine(model, "h2o", allowance=None)._worker.scheduler.readers == 2
        assert prefixkv.Engine(model, "h2o")._worker.scheduler.readers == 1
        torch.set_num_threads(1)
        assert prefixkv.Engine(model, "h2o", allowance=None)._worker.scheduler.readers == 1


def test_a_prompt_that_fails_or_is_cancelled_beside_others_is_alone_in_that(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, does, streams = pictures(2), reader.read, list[Stream]()
    expected = [alone(model, inputs, "20%", "h2o") for inputs in asked]
    beside = set[str]()

    def read(model: Any, request: Any, *further: Any) -> Any:
        beside.add(threading.current_thread().name.split("_")[0])
        if request.number == 1:
            raise torch.OutOfMemoryError("no memory") if not request.stream.is_cancelled else ValueError("odd")
        if request.number == 4:
            request.stream.cancel()
        return does(model, request, *further)

    monkeypatch.setattr(reader, "read", read)
    with cores(), prefixkv.Engine(model, "h2o", "40MiB", allowance=None) as engine:
        streams = ask(engine, asked, "20%")
        streams[1].result(60)
        streams[0].cancel()
        for place, stream in enumerate(streams):
            if place not in {0, 3}:
                assert stream.result(60) == expected[place]
    assert beside == {"prefixkv-engine", "prefixkv-reader"}
    assert streams[3].finish_reason == "cancelled"
    assert engine.reserved_bytes == engine.prefixes.bytes == 0


def test_when_enough_rows_run_they_step_while_a_prompt_is_read() -> None:
    scheduler: Scheduler[Asked] = Scheduler(Ledger(1000), 64, None, readers=2)
    for number in range(ENOUGH + 4):
        scheduler.add(Asked(number, 10, Footprint(1, 1), 5))
    both = [scheduler.next_to_read(), scheduler.next_to_read(), scheduler.next_to_read()]
    assert [request and request.number for request in both] == [0, 1, None]
    while len(scheduler.running) < ENOUGH:
        scheduler.run(next(iter(scheduler.reading.values())))
        if len(scheduler.running) < ENOUGH:
            assert scheduler.next_to_read() is not None
    assert len(scheduler.reading) == 1
    assert scheduler.next_to_read() is None
    scheduler.run(next(iter(scheduler.reading.values())))
    assert scheduler.next_to_read() is not None
