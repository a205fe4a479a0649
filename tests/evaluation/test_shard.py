"""Samples are shared out in whole groups, and what a group is does not depend on who measures it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from prefixkv.evaluation.cells import REFERENCE, Cell, cells_of
from prefixkv.evaluation.exercise import Exercise
from prefixkv.evaluation.measure import Measuring
from prefixkv.evaluation.shard import Shard, group_size, parts
from prefixkv.models.loading import LoadedModel

CELLS = tuple(cells_of("h2o,local", "20%"))
SHARD = Shard(CELLS, ("ppl",), 8, group_size=8, threads=1, count=1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_groups_are_the_same_for_any_number_of_processes(count: int) -> None:
    missing = {index: [REFERENCE] for index in (0, 1, *range(9, 30))}
    shard = replace(SHARD, count=count)
    found = [group for number in range(count) for group in shard.groups(missing, 30, number)]
    assert sorted(found, key=lambda group: group.start) == [range(8), range(8, 16), range(16, 24), range(24, 30)]
    assert replace(shard, group_size=1).groups(missing, 30, 0) == [
        range(index, index + 1) for index in range(0, 30, count) if index in missing
    ]


def test_a_group_that_lacks_nothing_is_left_out() -> None:
    assert SHARD.groups({17: [REFERENCE]}, 30, 0) == [range(16, 24)]


def test_a_gpu_has_as_many_samples_at_a_time_as_fill_its_batch() -> None:
    gpu = torch.device("cuda")
    assert [group_size(gpu, cells) for cells in (0, 1, 4, 5, 8, 16, 200)] == [32, 32, 32, 25, 16, 8, 8]
    assert [group_size(torch.device("cpu"), cells) for cells in (0, 1, 200)] == [8, 8, 8]


class Folder:
    """Stands for a `RecordFolder`."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, list[Cell]]] = []

    def append(self, process: int, sample: int, records: dict[Cell, Any]) -> None:
        self.lines.append((sample, list(records)))


class Samples:
    """Stands for `Exercises`: its samples are their numbers."""

    questions: Sequence[Any] = ()

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> int:
        return index


def test_a_whole_group_is_measured_in_what_one_of_it_lacks_and_only_that_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def group(self: Measuring, exercises: Any, rights: Any, cells: Any) -> list[dict[Cell, Any]]:
        asked.append((exercises, cells))
        return [dict.fromkeys([REFERENCE, *cells]) for _ in exercises]

    monkeypatch.setattr(Measuring, "group", group)
    monkeypatch.setattr("prefixkv.evaluation.shard.parts", lambda *given: [slice(0, 3), slice(3, 8)])
    folder, done = Folder(), list[int]()
    missing = {2: [CELLS[0]], 5: [REFERENCE, *CELLS], 6: [REFERENCE, *CELLS]}
    SHARD.measure(None, Samples(), folder, missing, 0, done.append, pytest.fail)  # type: ignore[arg-type]
    assert asked == [([0, 1, 2], list(CELLS)), ([3, 4, 5, 6, 7], list(CELLS))]
    assert folder.lines == [(2, [CELLS[0]]), (5, [REFERENCE, *CELLS]), (6, [REFERENCE, *CELLS])]
    assert done == [3]


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
