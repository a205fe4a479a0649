"""The decode step as CUDA graphs, one for each device of the model, for a number of rows and precisions of storage.

A graph holds addresses of weights, of its own small inputs and of the entry table, but none of a row's buffers: rows
that come, go, grow and are read again replay the same graph.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from prefixkv.decoder.captured_stage import CapturedStage
from prefixkv.decoder.forward_step import ForwardStep
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.decoder.step import DecoderStep, OwnStep
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.entry_table import WHOLE_BITS, LayerEntries
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError

_captured: weakref.WeakKeyDictionary[Any, dict[tuple[int, tuple[int, ...]], CapturedStep]] = weakref.WeakKeyDictionary()
_pools: weakref.WeakKeyDictionary[Any, dict[torch.device, Any]] = weakref.WeakKeyDictionary()
_refusals: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()
_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_capturing = threading.RLock()


class CapturedStep:
    """A step that can be replayed. Its tables belong to one user at a time; who comes next writes them anew.

    Attributes:
        rows: of its tables.
        bytes: of its devices, that capturing took for working memory beside what other steps of the model have.
        lock: held by who writes the inputs, replays and reads the logits; one for all steps of a model.
    """

    def __init__(
        self, step: DecoderStep, rows: int, formats: Sequence[int], pools: dict[torch.device, Any], lock: Any
    ) -> None:
        """Capture each stage, behind the one before it.

        Args:
            step: the model's.
            rows: of the tables.
            formats: precisions of storage that may occur in them.
            pools: by device, the memory of the model's graphs; those of further devices are added.
            lock: see the attribute.
        """
        self._addresses, self.rows, self.lock = step.addresses(), rows, lock
        self._owner: weakref.ref[Any] | None = None
        self._stages: list[CapturedStage] = []
        given = torch.zeros(rows, dtype=torch.int64)
        for stage in step.stages:
            with on(stage.device):
                # Graphs of one model on one device never run at the same time: they share their working memory.
                on_gpu = stage.device.type == "cuda"
                pool = pools.setdefault(stage.device, torch.cuda.graph_pool_handle()) if on_gpu else None
                self._stages.append(CapturedStage(step, stage, given, formats, pool))
            given = self._stages[-1].output
        self.bytes = sum(stage.bytes for stage in self._stages)

    @classmethod
    def of(cls, model: Any, rows: int, formats: Sequence[int] = (WHOLE_BITS,)) -> CapturedStep:
        """The step of a model, captured where it is new or its weights have moved.

        Args:
            model: on one CUDA device, or a Llama-like one on several.
            rows: of the table.
            formats: precisions of storage that may occur in it.

        Raises:
            NotCapturableError: its step cannot be captured.
        """
        with _capturing:
            step = _step_of(model)
            steps, load = _captured.setdefault(model, {}), (rows, tuple(formats))
            addresses = step.addresses()
            if any(other._addresses != addresses for other in steps.values()):
                # None of them is right any more.
                steps.clear()
            if load not in steps:
                if not steps:
                    # With the last graph its working memory went, too.
                    _pools.pop(model, None)
                pools, lock = _pools.setdefault(model, {}), _locks.setdefault(model, threading.RLock())
                try:
                    steps[load] = cls(step, rows, formats, pools, lock)
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:
                    # What was begun in that memory has no end.
                    _pools.pop(model, None)
                    raise _refused(model, step, error) from error
            return steps[load]

    @classmethod
    def require(cls, model: Any, rows: int, formats: Sequence[int]) -> None:
        """Refuse a model that has no step; transformers' forward pass must be captured once to know; as for `of`.

        Raises:
            NotCapturableError: its step cannot be captured.
        """
        if isinstance(_step_of(model), ForwardStep) and not _captured.get(model):
            cls.of(model, rows, formats)

    @staticmethod
    def is_ready(model: Any, rows: int, formats: Sequence[int] = (WHOLE_BITS,)) -> bool:
        """Whether a step was captured for such a load."""
        return (rows, tuple(formats)) in _captured.get(model, {})

    @staticmethod
    def memory(model: Any) -> tuple[int, int]:
        """How many steps of a model are captured, and the bytes that they took together."""
        steps = list(_captured.get(model, {}).values())
        return len(steps), sum(step.bytes for step in steps)

    def claim(self, owner: object, before: CapturedStep | None = None) -> bool:
        """Have the tables for oneself; under the lock.

        Args:
            owner: who uses the step from now on.
            before: another step of the same model, which the owner has used so far and lets go.

        Returns:
            Whether all rows of the tables are idle, since somebody else had it; or, with a step before, had that one's.
        """
        if before is not None and before._is_owned(owner):
            before._owner = None
            for own, theirs in zip(self._stages, before._stages, strict=True):
                own.table.copy(theirs.table)
        elif self._is_owned(owner):
            return False
        else:
            self.clear()
            before = None
        self._owner = weakref.ref(owner)
        return before is None

    def _is_owned(self, owner: object) -> bool:
        return self._owner is not None and self._owner() is owner

    def write(self, row: int, layers: Sequence[LayerEntries]) -> None:
        """Describe a row, see `prefixkv.kernels.entry_table.EntryTable.write`.

        Args:
            row: which one.
            layers: one for each layer of the decoder.
        """
        for stage in self._stages:
            stage.write(row, layers[stage.layers.start : stage.layers.stop])

    def clear(self, row: int | None = None) -> None:
        """Make a row idle; all where None."""
        for stage in self._stages:
            stage.table.clear(row)

    def replay(self, tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Queue the step; the host does not wait. Under the lock.

        Args:
            tokens: (rows or fewer,), int64, of the first rows.
            offsets: (rows,), int64, added to the positions.

        Returns:
            (rows, vocabulary), float32, where the tokens are; the next replay overwrites it.
        """
        given = tokens
        for stage in self._stages:
            with on(stage.device):
                given = stage.replay(given, offsets)
        return given.to(tokens.device, non_blocking=True)


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A CUDA device is the current one while the `with` lasts."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _step_of(model: Any) -> DecoderStep:
    """The project's own step where it knows the decoder, else transformers' forward pass.

    Raises:
        NotCapturableError: neither can be captured.
    """
    with contextlib.suppress(UnknownDecoderError):
        return OwnStep(DecoderWeights.of(model))
    try:
        step = ForwardStep(model)
    except PrefixKVError as error:
        raise NotCapturableError.because(error) from error
    if (known := _refusals.get(model)) is not None and known[0] == step.addresses():
        raise NotCapturableError.because(known[1])
    return step


def _refused(model: Any, step: DecoderStep, error: Exception) -> Exception:
    """What a step that fails while it is captured is told as; it is not tried again while the model is as it is."""
    if not isinstance(step, ForwardStep):
        return error
    reason = f"its forward pass cannot be captured: {(str(error).splitlines() or [type(error).__name__])[0]}"
    _refusals[model] = step.addresses(), reason
    return NotCapturableError.because(reason)
