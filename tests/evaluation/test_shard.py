"""Samples are shared out in whole groups, and what a group is does not depend on who measures it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.cells import REFERENCE, Cell, cells_of
from prefixkv.evaluation.claims import Claims
from prefixkv.evaluation.exercise import Exercise
from prefixkv.evaluation.measure import Measuring
from prefixkv.evaluation.shard import Shard, group_size, parts
from prefixkv.models.loading import LoadedModel

CELLS = tuple(cells_of("h2o,local", "20%"))
SHARD = Shard(CELLS, ("ppl",), 8, group_size=8, threads=1, count=1)


def test_groups_are_whole_ones_of_those_that_lack_something() -> None:
    missing = {index: [REFERENCE] for index in (0, 1, *range(17, 30))}
    assert SHARD.groups(missing, 30) == [range(8), range(16, 24), range(24, 30)]
    alone = replace(SHARD, group_size=1)
    assert alone.groups(missing, 30) == [range(index, index + 1) for index in range(30) if index in missing]


@pytest.mark.parametrize(
    ("cells", "sizes"),
    [(1, [8] * 5), (8, [8] * 5), (16, [8, 8, 8, 4, 4, 4, 4]), (64, [8, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1])],
)
def test_the_last_groups_are_halved_as_far_as_they_fill_a_batch(cells: int, sizes: list[int]) -> None:
    many = tuple(Cell("h2o", f"{number}%") for number in range(1, cells + 1))
    missing = {index: [REFERENCE] for index in range(40)}
    assert list(map(len, replace(SHARD, cells=many).groups(missing, 40))) == sizes


def test_a_gpu_has_as_many_samples_at_a_time_as_fill_its_batch() -> None:
    gpu = torch.device("cuda")
    assert [group_size(gpu, cells) for cells in (0, 1, 4, 5, 8, 16, 200)] == [32, 32, 32, 25, 16, 8, 8]
    assert [group_size(torch.device("cpu"), cells) for cells in (0, 1, 200)] == [8, 8, 8]


class Folder:
    """Stands for a `RecordFolder`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[tuple[int, list[Cell]]] = []
        self.processes: dict[int, int] = {}
        Claims(path).begin()

    def append(self, process: int, sample: int, records: dict[Cell, Any]) -> None:
        self.lines.append((sample, list(records)))
        self.processes[sample] = process


class Samples:
    """Stands for `Exercises`: its samples are their numbers."""

    questions: Sequence[Any] = ()

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> int:
        return index


def test_a_whole_group_is_measured_in_what_one_of_it_lacks_and_only_that_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def group(self: Measuring, exercises: Any, rights: Any, cells: Any) -> list[dict[Cell, Any]]:
        asked.append((exercises, cells))
        return [dict.fromkeys([REFERENCE, *cells]) for _ in exercises]

    monkeypatch.setattr(Measuring, "group", group)
    monkeypatch.setattr("prefixkv.evaluation.shard.parts", lambda *given: [slice(0, 3), slice(3, 8)])
    folder, done = Folder(tmp_path), list[int]()
    missing = {2: [CELLS[0]], 5: [REFERENCE, *CELLS], 6: [REFERENCE, *CELLS]}
    SHARD.measure(None, Samples(), folder, missing, 0, done.append, pytest.fail)  # type: ignore[arg-type]
    assert asked == [([0, 1, 2], list(CELLS)), ([3, 4, 5, 6, 7], list(CELLS))]
    assert folder.lines == [(2, [CELLS[0]]), (5, [REFERENCE, *CELLS]), (6, [REFERENCE, *CELLS])]
    assert done == [3]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_slow_process_takes_fewer_groups_and_every_sample_is_measured_once(
    count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Threads stand for processes; the first takes ten times as long as the others."""

    def group(self: Measuring, exercises: Any, rights: Any, cells: Any) -> list[dict[Cell, Any]]:
        time.sleep(0.05 if threading.current_thread().name == "0" else 0.005)
        return [dict.fromkeys([REFERENCE, *cells]) for _ in exercises]

    monkeypatch.setattr(Measuring, "group", group)
    monkeypatch.setattr("prefixkv.evaluation.shard.parts", lambda *given: [slice(0, 1)])
    monkeypatch.setattr(Samples, "__len__", lambda self: 20)
    folder, missing = Folder(tmp_path), {index: [REFERENCE] for index in range(20)}
    shard, done = replace(SHARD, group_size=1, count=count), list[int]()

    def work(number: int) -> None:
        shard.measure(None, Samples(), folder, missing, number, done.append, pytest.fail)  # type: ignore[arg-type]

    threads = [threading.Thread(target=work, args=(number,), name=str(number)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sample for sample, _ in folder.lines) == list(range(20))
    assert 1 <= list(folder.processes.values()).count(0) <= (20 if count == 1 else 5)
    assert max(done) <= 20
    assert max(done) >= 20 - count


def test_who_sees_another_folder_than_the_first_process_is_told(tmp_path: Path) -> None:
    with pytest.raises(PrefixKVError, match="give --out a folder that all of them see"):
        next(Claims(tmp_path).take([range(8)]))


def test_what_a_killed_run_had_taken_is_free_again(tmp_path: Path) -> None:
    groups, claims = [range(8), range(8, 16)], Claims(tmp_path)
    claims.begin()
    assert list(claims.take(groups)) == groups
    assert list(Claims(tmp_path).take(groups)) == []
    claims.begin()
    assert list(claims.take(groups)) == groups
    claims.end()
    assert list(tmp_path.iterdir()) == []


def test_a_group_is_halved_where_memory_is_small(text_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    group = [Exercise({"input_ids": torch.zeros(1, length)}) for length in (1000, 1000, 10, 10, 10, 10)]
    assert parts(text_model, group, CELLS, 8) == [slice(0, 6)]
    one = 1000 * text_model.geometry.token_bytes

    def memory(whole: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"total": whole * 16}))

    # The full cache and two of a fifth, each with a copy.
    memory(6 * one)
    assert parts(text_model, group, CELLS, 8) == [slice(0, 6)]
    memory(int(3.2 * one))
    assert parts(text_model, group, CELLS, 8) == [slice(0, 1), slice(1, 3), slice(3, 6)]
    memory(1)
    assert parts(text_model, group, CELLS, 8) == [slice(at, at + 1) for at in range(6)]
