"""The decode step as one CUDA graph, captured once for a model, a number of rows and the precisions of storage.

The graph holds addresses of weights, of its own small inputs and of the entry table, but none of a row's buffers: rows
that come, go, grow and are read again replay the same graph.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from prefixkv.decoder.forward_step import ForwardStep
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.decoder.step import DecoderStep, OwnStep
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.kernels.packing import pack
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError

_captured: weakref.WeakKeyDictionary[Any, dict[tuple[int, tuple[int, ...]], CapturedStep]] = weakref.WeakKeyDictionary()
_pools: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_refusals: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()
_locks: weakref.WeakKeyDictionary[Any, threading.RLock] = weakref.WeakKeyDictionary()
_capturing = threading.RLock()


class CapturedStep:
    """A step that can be replayed. Its table belongs to one user at a time; who comes next writes it anew.

    Attributes:
        table: where the entries lie.
        rows: rows of the table.
        lock: held by who writes the inputs, replays and reads the logits; one for all steps of a model.
    """

    def __init__(self, step: DecoderStep, rows: int, formats: Sequence[int], pool: Any, lock: Any) -> None:
        """Run the step once on a cache of nothing, which compiles its kernels, and capture it.

        On a CPU nothing is captured, and a replay computes the step anew in plain torch.
        """
        self._addresses, self.rows, self.lock = step.addresses(), rows, lock
        self._owner: weakref.ref[Any] | None = None
        device = step.device
        self.table = EntryTable(step.layers, rows, device)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._offsets = torch.zeros(rows, dtype=torch.int64, device=device)
        # Named, so that they live until the device has read them.
        whole = step.empty_entry()
        packed = {bits: LayerEntries.zeros(pack(whole.keys, bits), bits) for bits in formats if bits != WHOLE_BITS}
        entries = [packed.get(bits, whole) for bits in formats]
        for row, entry in enumerate(entries[:rows]):
            self.table.write(row, [entry] * step.layers)
        self._run = partial(step, self.table, self._tokens, self._offsets, tuple(formats))
        self._logits = self._run()
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._graph = torch.cuda.CUDAGraph()
            # The stream that was current is so afterwards, also where capturing fails.
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"),
            ):
                self._logits = self._run()
        self.table.clear()

    @classmethod
    def of(cls, model: Any, rows: int, formats: Sequence[int] = (WHOLE_BITS,)) -> CapturedStep:
        """The step of a model, captured where it is new or its weights have moved.

        Args:
            model: on one CUDA device.
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
                # Graphs of one model never run at the same time: they share their working memory.
                on_gpu = model.device.type == "cuda"
                pool = _pools.setdefault(model, torch.cuda.graph_pool_handle()) if on_gpu else None
                lock = _locks.setdefault(model, threading.RLock())
                try:
                    steps[load] = cls(step, rows, formats, pool, lock)
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

    def claim(self, owner: object, before: CapturedStep | None = None) -> bool:
        """Have the table for oneself; under the lock.

        Args:
            owner: who uses the step from now on.
            before: another step of the same model, which the owner has used so far and lets go.

        Returns:
            Whether all rows of the table are idle, since somebody else had it; or, with a step before, had that one's.
        """
        if before is not None and before._is_owned(owner):
            before._owner = None
            self.table.copy(before.table)
        elif self._is_owned(owner):
            return False
        else:
            self.table.clear()
            before = None
        self._owner = weakref.ref(owner)
        return before is None

    def _is_owned(self, owner: object) -> bool:
        return self._owner is not None and self._owner() is owner

    def replay(self, tokens: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Queue the step; the host does not wait. Under the lock.

        Args:
            tokens: (rows or fewer,), int64, of the first rows.
            offsets: (rows,), int64, added to the positions.

        Returns:
            (rows, vocabulary), float32; the next replay overwrites it.
        """
        self._tokens[: len(tokens)].copy_(tokens)
        self._offsets.copy_(offsets)
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._logits


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
