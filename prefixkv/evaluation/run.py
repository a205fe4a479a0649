"""An evaluation from its options to its figures: samples are shared out, missing ones measured, all records read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from prefixkv.children import Children
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.evaluation.cells import REFERENCE, Cell, measured_cells, new_cache
from prefixkv.evaluation.claims import Claims
from prefixkv.evaluation.data import FIRST_TOKENS, DataSource
from prefixkv.evaluation.engine import engine_digest
from prefixkv.evaluation.exercise import Exercises
from prefixkv.evaluation.other_processes import MEASURED, SAMPLES_PER_PROCESS, OtherProcesses, no_processes
from prefixkv.evaluation.records import RecordFolder
from prefixkv.evaluation.results import results
from prefixkv.evaluation.shard import Missing, Shard, Span, group_size
from prefixkv.home import home
from prefixkv.models.loading import LoadedModel, Notify, find_device, load_model, profile_name
from prefixkv.models.placement import Placement
from prefixkv.models.weight_digest import tensor_digest, weight_digest
from prefixkv.profiles.guidance import leave_out_profile
from prefixkv.workers import Launch, cards_of, division_of, seconds_since_start

Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""


@dataclass(frozen=True)
class Evaluation:
    """What is to be evaluated: plain values.

    Attributes:
        model: as for `load_model`.
        source: where the samples come from.
        cells: methods at budgets.
        metrics: of `ppl`, `rouge`, `accuracy`, `kl`; all that the data allows where empty.
        most_tokens: longest own answer.
        context_tokens: tokens of a text that are compressed.
        continuation_tokens: tokens behind them that are predicted.
        folder: for the records; a folder of `PREFIXKV_HOME` named by model, data and settings where None.
        device: as for `load_model`.
        dtype: as for `load_model`.
        processes: on this machine; as many as it is good for where None.
        side_by_side: see `Measuring`; on a GPU alone where None. Texts always are.
        placement: as for `load_model`.
        first_token: one of `FIRST_TOKENS`.
        uses_profile: whether the model's profile is used, where there is one.
    """

    model: str
    source: DataSource
    cells: tuple[Cell, ...]
    metrics: tuple[str, ...] = ()
    most_tokens: int = 320
    context_tokens: int = 1024
    continuation_tokens: int = 256
    folder: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    processes: int | None = 1
    side_by_side: bool | None = None
    placement: Placement = field(default_factory=Placement)
    first_token: str = FIRST_TOKENS[0]
    uses_profile: bool = True

    def _load(self, device: str, notify: Notify) -> LoadedModel:
        loaded = load_model(self.model, device, self.dtype, notify, self.placement)
        if not self.uses_profile:
            leave_out_profile(loaded.model)
        return loaded

    @property
    def _cut(self) -> tuple[DataSource, int, int, str]:
        """What samples are made of, for `Exercises`."""
        return self.source, self.context_tokens, self.continuation_tokens, self.first_token

    def run(
        self,
        progress: Progress = lambda done, total: None,
        notify: Notify = lambda text: None,
        children: Children | None = None,
    ) -> dict[str, Any] | None:
        """Measure what is missing and give the figures.

        A sample that is measured is in the folder; a run that is stopped goes on from there.

        Args:
            progress: called when samples are done.
            notify: called with one line for each thing that the user should know.
            children: of `further_processes`, started, if that was done before this module was imported.

        Returns:
            The figures, see `results`; None in a process that does not report.

        Raises:
            OptionError: a metric that the data does not allow.
            PrefixKVError: data, model or folder are not as they should be.
        """
        with Launch(self.device) as launch, OtherProcesses(children or no_processes(), notify) as others:
            return self._share_in(launch, others, progress, notify)

    def _share_in(
        self, launch: Launch, others: OtherProcesses, progress: Progress, notify: Notify
    ) -> dict[str, Any] | None:
        """Measure this process's samples; the figures in the process that reports."""
        if not launch.is_main:
            notify = _silent
        device = launch.device if self.placement.device_map is None else self.device
        cards = cards_of(find_device(device), device) if self.placement.device_map is None else []
        others.prepare(self, cards or [device])
        loaded = self._load(device, notify)
        exercises = Exercises(loaded, *self._cut)
        metrics = self._metrics(exercises)
        most_processes, threads = division_of(loaded.model)
        settings = self._settings(loaded, metrics, threads)
        path = self.folder or _own_folder(self.model, self.source, settings)
        look_ahead = _look_ahead_digest(loaded, self.cells, notify)
        claims = Claims(path)
        if launch.is_main:
            RecordFolder(path, settings)
            claims.begin()
        launch.wait()
        folder = RecordFolder(path, settings, look_ahead)
        missing = _missing(folder, self.cells, len(exercises))
        launch.wait()
        started = seconds_since_start()
        if len(missing) < len(exercises):
            notify(f"{len(exercises) - len(missing)} of {len(exercises)} samples are measured already in {path}")
        wanted = most_processes if self.processes is None else self.processes
        further = min(wanted - 1, len(missing) // SAMPLES_PER_PROCESS) if launch.count == 1 else 0
        count = launch.count + further
        if further and cards and count > len(cards):
            notify(
                f"{count} processes share the CUDA devices {', '.join(cards)}: those of one card slow each other down"
            )
        size = group_size(loaded.device, len(measured_cells(self.cells))) if self._is_side_by_side(loaded) else 1
        shard = Shard(self.cells, metrics, self.most_tokens, size, threads, count)
        others.measure(further, (shard, path, settings, look_ahead, missing))

        def step(done: int) -> None:
            others.check()
            progress(done, len(missing))

        began, ended = shard.measure(loaded, exercises, folder, missing, launch.number, step, notify)
        spans = others.wait()
        if others.has_lost:
            claims.begin()
            left = _missing(folder, self.cells, len(exercises))
            _, ended = replace(shard, count=1).measure(loaded, exercises, folder, left, 0, lambda done: None, notify)
        times = launch.gather([(started, (began, ended)), *spans])
        if missing:
            progress(len(missing), len(missing))
            notify(f"measured {len(missing)} samples in {_spent(times)}")
        if launch.is_main:
            claims.end()
        return self._figures(loaded, exercises, folder, settings, notify) if launch.is_main else None

    def _figures(
        self,
        loaded: LoadedModel,
        exercises: Exercises,
        folder: RecordFolder,
        settings: dict[str, Any],
        notify: Notify,
    ) -> dict[str, Any]:
        """Read all records and sum them up."""
        if _missing(folder, self.cells, len(exercises)):
            raise PrefixKVError(
                f"{folder.path} lacks records of other processes: give --out a folder that all of them see"
            )
        kinds = [question.kind for question in exercises.questions]
        figures = results(self.cells, folder.read(), len(exercises), kinds, settings, loaded.geometry)
        folder.write_results(figures)
        notify(f"records and results are in {folder.path}")
        return figures

    def _is_side_by_side(self, loaded: LoadedModel) -> bool:
        """Whether samples and cells are rows of one batch."""
        chosen = loaded.device.type == "cuda" if self.side_by_side is None else self.side_by_side
        return chosen or self.source.kind == "text"

    def _metrics(self, exercises: Exercises) -> tuple[str, ...]:
        answers = any(question.answer is not None for question in exercises.questions)
        if self.metrics:
            if "accuracy" in self.metrics and not answers:
                raise OptionError("metric 'accuracy' needs right answers, and this data has none: leave it out")
            return self.metrics
        return ("ppl", "kl") if not exercises.questions else ("ppl", "rouge", *(["accuracy"] * answers), "kl")

    def _settings(self, loaded: LoadedModel, metrics: tuple[str, ...], threads: int) -> dict[str, Any]:
        """All that the figures of a cell depend on, besides its method and its budget."""
        windows = {"context_tokens": self.context_tokens, "continuation_tokens": self.continuation_tokens}
        return {
            "model": loaded.identity.as_dict(),
            "weights": weight_digest(loaded.model)[:16],
            "data": self.source.digest(),
            **(windows if self.source.kind == "text" else {}),
            "max_new_tokens": self.most_tokens,
            "first_token": self.first_token,
            "profile": self.uses_profile,
            "metrics": sorted(metrics),
            "side_by_side": self._is_side_by_side(loaded),
            "device": loaded.device.type,
            "threads": threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "engine": engine_digest(),
        }


def measure_with_others(pipe: Connection, evaluation: Evaluation, device: str, number: int) -> None:
    """What a further process does.

    Args:
        pipe: to the process that was called, which sends what is to be measured and is told, at the end, the seconds
            until measuring began, and from when to when it was.
        evaluation: what is evaluated.
        device: of this process.
        number: of this process.
    """

    def step(done: int) -> None:
        # Nothing is sent any more: what can be received is the end of the process that was called.
        if pipe.poll():
            pipe.recv()

    loaded = evaluation._load(device, _silent)
    if loaded.device.type == "cuda":
        # What names no device of its own belongs here, too, and not onto the first card.
        torch.cuda.set_device(loaded.device)
    exercises = Exercises(loaded, *evaluation._cut)
    shard, path, settings, look_ahead, missing = pipe.recv()
    folder, started = RecordFolder(path, settings, look_ahead), seconds_since_start()
    span = shard.measure(loaded, exercises, folder, missing, number, step, _silent)
    pipe.send((MEASURED, (started, span)))


def _spent(times: Sequence[tuple[float, Span]]) -> str:
    """What processes have spent, all together from the first one's beginning to the last one's end, and each."""
    first, last = min(began for _, (began, _) in times), max(ended for _, (_, ended) in times)
    each = (f"{started:.1f} s to start and {ended - began:.1f} s of work" for started, (began, ended) in times)
    return f"{last - first:.1f} s: {'; '.join(each)}"


def _look_ahead_digest(loaded: LoadedModel, cells: tuple[Cell, ...], notify: Notify) -> str | None:
    """Digest of the look-ahead queries in use; also sees to it that every cell's cache can be made."""
    found = [new_cache(loaded, cell, notify).look_ahead for cell in measured_cells(cells)]
    used = next((one for one in found if one is not None), None)
    if used is None:
        return None
    return tensor_digest((f"{used.losses}, {layer}", part) for layer, part in enumerate(used.queries))


def _missing(folder: RecordFolder, cells: tuple[Cell, ...], samples: int) -> Missing:
    """The cells of every sample that have no record; samples with none missing left out."""
    known = folder.read()
    needed = [REFERENCE, *measured_cells(cells)]
    lacking = {index: [cell for cell in needed if (index, cell) not in known] for index in range(samples)}
    return {index: lacks for index, lacks in lacking.items() if lacks}


def _own_folder(model: str, source: DataSource, settings: dict[str, Any]) -> Path:
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
    name = source.kind if source.path is None else source.path.stem
    return home() / "evaluations" / f"{profile_name(model)}-{profile_name(name)}-{digest}"


def _silent(text: str) -> None:
    """Say nothing: another process does."""
