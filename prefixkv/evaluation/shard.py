"""An evaluation's samples in groups of consecutive ones, which processes take and measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from prefixkv.evaluation.cells import REFERENCE, Cell, measured_cells
from prefixkv.evaluation.claims import Claims
from prefixkv.evaluation.exercise import Exercise, Exercises
from prefixkv.evaluation.following import ROWS
from prefixkv.evaluation.measure import Measuring
from prefixkv.evaluation.records import RecordFolder
from prefixkv.models.choice import memory_bytes
from prefixkv.models.loading import LoadedModel, Notify

SAMPLES, MOST_SAMPLES = 8, 32
"""Samples of a group, which are measured side by side: at least and at most; see `group_size`."""
DEVICE_SHARE, HOST_SHARE = 4, 16
"""A group may take one part in so many of the device's memory, or of a host's, where several processes may be."""

Span = tuple[float, float]
"""From when to when, in seconds of the system's clock."""
Missing = Mapping[int, Sequence[Cell]]
"""By the number of a sample, the cells that have no record, the reference among them; never none."""


@dataclass(frozen=True)
class Shard:
    """How samples are shared out among processes, and measured in each.

    A group is measured by one process, in all cells that one of its samples lacks. So which samples are side by side,
    and with it the last digits of the figures, depend neither on the number of processes nor on whether a run was
    stopped between two groups.

    Attributes:
        cells: all that are asked for.
        metrics: as for `Measuring`.
        most_tokens: likewise.
        group_size: samples that are measured side by side: those of numbers 0 to 7, 8 to 15 and so on where it is 8;
            1 where each is measured by itself.
        threads: of each process.
        count: processes that share the samples.
    """

    cells: tuple[Cell, ...]
    metrics: tuple[str, ...]
    most_tokens: int
    group_size: int
    threads: int
    count: int

    def groups(self, missing: Missing, samples: int) -> list[range]:
        """The groups that lack something, in the order in which they are taken.

        Towards the end they are halved, so that no process has long to wait for the last one, down to as many samples
        as still fill a batch: a step of fewer rows takes a GPU hardly less time.

        Args:
            missing: what is missing.
            samples: of all.
        """
        size, fills = self.group_size, math.ceil(ROWS / max(1, len(measured_cells(self.cells))))
        every, start = list[range](), 0
        while start < samples:
            while size >= 2 * fills and samples - start <= 2 * size:
                size //= 2
            every.append(range(start, min(start + size, samples)))
            start += size
        return [group for group in every if any(index in missing for index in group)]

    def measure(
        self,
        loaded: LoadedModel,
        exercises: Exercises,
        folder: RecordFolder,
        missing: Missing,
        number: int,
        step: Callable[[int], None],
        notify: Notify,
    ) -> Span:
        """Measure what is missing, group after group, of those that no other process takes.

        Args:
            loaded: the model.
            exercises: all samples.
            folder: where records go.
            missing: what is missing.
            number: of the process.
            step: called with the samples that are done by all processes, as far as this one can tell.
            notify: as for `Measuring`.

        Returns:
            When it began and when it ended.
        """
        measuring = Measuring(loaded, self.metrics, self.most_tokens, self.group_size > 1, notify)
        before, began, claims = torch.get_num_threads(), time.time(), Claims(folder.path)
        groups = self.groups(missing, len(exercises))
        torch.set_num_threads(self.threads)
        try:
            for group in claims.take(groups):
                lacking = [cell for cell in self._in_order(missing, group) if cell != REFERENCE]
                asked = [exercises[index] for index in group]
                for part in parts(loaded, asked, lacking, self.most_tokens):
                    indices = group[part]
                    rights = [exercises.questions[i].answer if exercises.questions else None for i in indices]
                    found = measuring.group(asked[part], rights, lacking)
                    for index, records in zip(indices, found, strict=True):
                        if index in missing:
                            folder.append(number, index, {cell: records[cell] for cell in missing[index]})
                # Each of the others has one in hand.
                done = groups[: max(1, claims.taken() + 1 - self.count)]
                step(sum(index in missing for each in done for index in each))
        finally:
            torch.set_num_threads(before)
        return began, time.time()

    @staticmethod
    def _in_order(missing: Missing, group: Sequence[int]) -> list[Cell]:
        """The cells that one of a group's samples lacks, in the order in which they are asked for."""
        lacks = [missing[index] for index in group if index in missing]
        longest = max(lacks, key=len)
        return list(dict.fromkeys([*longest, *(cell for each in lacks for cell in each)]))


def group_size(device: torch.device, cells: int) -> int:
    """Samples that are measured side by side.

    A step takes a GPU hardly longer for a full batch than for a single row, so that where cells are few, samples fill
    it; a host computes every row.

    Args:
        device: of the model.
        cells: that evict.
    """
    fills = 2 * ROWS // max(1, cells) if device.type == "cuda" else SAMPLES
    return max(SAMPLES, min(MOST_SAMPLES, fills))


def parts(loaded: LoadedModel, group: Sequence[Exercise], cells: Sequence[Cell], most_tokens: int) -> list[slice]:
    """A group as it is measured: at once, or in halves of halves where the machine's memory is small for it.

    Args:
        loaded: the model, which says where the caches are.
        group: samples.
        cells: those that evict.
        most_tokens: longest answer.

    Returns:
        Slices of the group, in order. They depend on the machine, the samples and the cells alone.
    """
    sizes = [_bytes(loaded, exercise, cells, most_tokens) for exercise in group]
    most = memory_bytes(loaded.device) // (DEVICE_SHARE if loaded.device.type == "cuda" else HOST_SHARE)

    def halves(start: int, stop: int) -> list[slice]:
        if stop - start == 1 or sum(sizes[start:stop]) <= most:
            return [slice(start, stop)]
        middle = (start + stop) // 2
        return halves(start, middle) + halves(middle, stop)

    return halves(0, len(group))


def _bytes(loaded: LoadedModel, exercise: Exercise, cells: Sequence[Cell], most_tokens: int) -> int:
    """What a sample's caches take at most, of which each may be copied once, and the full cache's predictions."""
    answer = max(most_tokens, len(exercise.reference or ()))
    behind = len(exercise.bridge) + len(exercise.further) + len(exercise.last) + answer
    tokens = exercise.inputs["input_ids"].shape[1] + behind
    shares = 1 + sum(cell.asked_fraction(loaded.geometry, tokens) for cell in cells)
    left = (1 + len(cells)) * loaded.geometry.left_bytes
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    return int(2 * (shares * tokens * loaded.geometry.token_bytes + left)) + 4 * vocabulary * answer
