"""The decode step as one CUDA graph, captured once for a model, a number of rows and a precision of storage.

The graph holds addresses of weights, and of its own small inputs; the cache's buffers are not among them, so a later
turn, a longer cache or another conversation replays the same graph.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from prefixkv.generation.captured.refusal import NotCapturableError
from prefixkv.generation.captured.step import decoder_step
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.kernels.packing import pack
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError

_captured: weakref.WeakKeyDictionary[Any, dict[tuple[int, int], CapturedStep]] = weakref.WeakKeyDictionary()


class CapturedStep:
    """A step that can be replayed.

    Attributes:
        table: where the entries lie; written before every replay.
        tokens: (batch,), int64: written before a replay.
        offsets: (batch,), int64, added to the positions.
        logits: (batch, vocabulary), float32: there after a replay.
    """

    def __init__(self, weights: DecoderWeights, batch: int, bits: int) -> None:
        """Run the step once on a cache of nothing, which compiles its kernels, and capture it."""
        self._addresses = weights.addresses()
        device = weights.embedding.device
        self.table = EntryTable(len(weights.layers), batch, device)
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(batch, dtype=torch.int64, device=device)
        # Named, so that it lives until the device has read it.
        entry = _one_entry(weights, bits)
        for row in range(batch):
            self.table.write(row, [entry] * len(weights.layers))
        with torch.no_grad():
            decoder_step(weights, self.table, self.tokens, self.offsets, (bits,))
            torch.cuda.synchronize(device)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.logits = decoder_step(weights, self.table, self.tokens, self.offsets, (bits,))

    @classmethod
    def of(cls, model: Any, batch: int, bits: int = WHOLE_BITS) -> CapturedStep:
        """The step of a model, captured where it is new or its weights have moved.

        Args:
            model: on one CUDA device.
            batch: rows.
            bits: of an element of the cache's entries.

        Raises:
            NotCapturableError: the model is of another kind.
        """
        steps, load = _captured.setdefault(model, {}), (batch, bits)
        try:
            weights = DecoderWeights.of(model)
        except UnknownDecoderError as error:
            raise NotCapturableError.because(error) from error
        if load not in steps or steps[load]._addresses != weights.addresses():
            steps.pop(load, None)
            steps[load] = cls(weights, batch, bits)
        return steps[load]

    @staticmethod
    def is_ready(model: Any, batch: int, bits: int = WHOLE_BITS) -> bool:
        """Whether a step was captured for such a load."""
        return (batch, bits) in _captured.get(model, {})

    def replay(self) -> None:
        """Queue the step; the host does not wait."""
        self._graph.replay()


def _one_entry(weights: DecoderWeights, bits: int) -> LayerEntries:
    layer = weights.layers[0]
    like, device = layer.input_gain, layer.input_gain.device
    head_dim = weights.angles(torch.zeros(1, dtype=torch.int64, device=device))[0].shape[1]
    kv_heads = layer.projections[1][0].shape[0] // head_dim
    keys, values = (like.new_zeros(1, kv_heads, 1, head_dim) for _ in range(2))
    if bits != WHOLE_BITS:
        keys, values = pack(keys, bits), pack(values, bits)
    positions = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    order = torch.zeros(1, dtype=torch.int32, device=device)
    return LayerEntries(keys, values, positions, positions.float(), order, bits, kept_tokens=1, seen_tokens=1)
