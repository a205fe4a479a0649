"""One device's part of a captured step: a CUDA graph, its small inputs and its entry table."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from prefixkv.decoder.stages import Stage
from prefixkv.decoder.step import DecoderStep
from prefixkv.kernels.entry_table import FINE, WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import pack


class CapturedStage:
    """A stage that can be replayed; on a CPU nothing is captured, and a replay computes it anew in plain torch.

    Attributes:
        device: where it computes.
        layers: of the decoder, which its table has.
        table: where their entries lie.
        output: what the last replay gives, and the next overwrites; on a CPU what the first run gave.
        bytes: of the device, that capturing took for working memory beside what other graphs of the model have.
    """

    def __init__(self, step: DecoderStep, stage: Stage, given: torch.Tensor, formats: Sequence[int], pool: Any) -> None:
        """Run the stage once on a cache of nothing, which compiles its kernels, and capture it.

        Args:
            step: the model's.
            stage: which part of it.
            given: token ids or hidden states of as many rows as the table has, on any device.
            formats: precisions of storage that may occur in the table.
            pool: the device's memory for graphs of this model; None on a CPU.
        """
        rows, device = len(given), stage.device
        self.device, self.layers, self.bytes = device, stage.layers, 0
        self.table = EntryTable(len(stage.layers), rows, device)
        self._given = given.to(device, copy=True)
        self._offsets = torch.zeros(rows, dtype=torch.int64, device=device)
        # Named, so that they live until the device has read them.
        whole = step.empty_entry(device)
        buffers = [bits for bits in formats if bits < FINE]
        entries = [whole if bits == WHOLE_BITS else _packed(whole, bits) for bits in buffers]
        for row, entry in enumerate(entries[:rows]):
            self.write(row, [entry] * len(self.layers))
        self._run = partial(step, stage, self.table, self._given, self._offsets, tuple(formats))
        self.output = self._run()
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self._graph = torch.cuda.CUDAGraph()
            # The stream that was current is so afterwards, also where capturing fails.
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(self._graph, pool, _stream(device), capture_error_mode="thread_local"),
            ):
                # In here: what was free of the allocator's memory is given back when capturing begins.
                before = torch.cuda.memory_reserved(device)
                self.output = self._run()
                self.bytes = torch.cuda.memory_reserved(device) - before
        self.table.clear()

    def write(self, row: int, layers: Sequence[LayerEntries]) -> None:
        """Describe a row, see `EntryTable.write`.

        Args:
            row: which one.
            layers: one for each of the stage's layers.
        """
        if self.layers:
            self.table.write(row, layers)

    def replay(self, given: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Queue the stage on its device's current stream, behind what makes its input; the host does not wait.

        Args:
            given: of the first rows, token ids or hidden states. On another device it is copied, and the two devices'
                streams wait for that copy by events.
            offsets: (rows,), int64, likewise.

        Returns:
            `output`.
        """
        self._given[: len(given)].copy_(given, non_blocking=True)
        self._offsets.copy_(offsets, non_blocking=True)
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self.output


def _packed(whole: LayerEntries, bits: int) -> LayerEntries:
    keys, values = pack(whole.keys, key_bits(bits)), pack(whole.values, value_bits(bits))
    return LayerEntries.zeros(keys, values, bits)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """On which a device's graphs are captured; torch's own belongs to the device that captured first."""
    return torch.cuda.Stream(device)
