"""Where every layer's entries lie and where the next one goes, as one small tensor on the device.

A captured step must not change, but buffers are made anew with every turn and grow while decoding. So the step reads
addresses and lengths from this table, and the host uploads a new table before every step: a few kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

COLUMNS = ("keys", "values", "positions", "importance", "capacity", "slot", "kept_tokens", "position", "choices")
"""Addresses of a layer's four buffers; entries that they can hold; where the new entry goes; entries with it; the new
token's position; heads that choose their own entries (1 where all kv heads share a choice)."""


@dataclass(frozen=True)
class LayerEntries:
    """One layer's buffers and the slot of the token that is being read.

    Attributes:
        keys: (batch, kv_heads, capacity, head_dim), contiguous.
        values: same shape.
        positions: (batch, choices, capacity), int64, contiguous.
        importance: (batch, choices, capacity), float32, contiguous.
        slot: where the new entry goes.
        kept_tokens: entries with the new one; the first so many are in use.
        position: of the new token.
    """

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    importance: torch.Tensor
    slot: int
    kept_tokens: int
    position: int

    @property
    def row(self) -> tuple[int, ...]:
        """The table's row, in the order of `COLUMNS`."""
        buffers = (self.keys, self.values, self.positions, self.importance)
        addresses = [buffer.data_ptr() for buffer in buffers]
        return (*addresses, self.keys.shape[2], self.slot, self.kept_tokens, self.position, self.positions.shape[1])


class EntryTable:
    """The table of all layers; the device's part keeps its address.

    Attributes:
        rows: (layers, columns), int64, on the device.
        layers: what was uploaded last, for the plain kernels. Empty on a GPU: a table outlives the caches that it
            describes and must not keep their buffers.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self.rows = torch.zeros(layers, len(COLUMNS), dtype=torch.int64, device=device)
        self.layers: Sequence[LayerEntries] = ()
        pinned = device.type == "cuda"
        # Two, because the copy out of one may still be on its way when the next table is written.
        self._staged = [torch.zeros(layers, len(COLUMNS), dtype=torch.int64, pin_memory=pinned) for _ in range(2)]

    def upload(self, layers: Sequence[LayerEntries]) -> None:
        """Describe the next step; on a GPU the copy is queued and the host does not wait.

        Args:
            layers: one for each layer.
        """
        self.layers = () if self.rows.is_cuda else layers
        self._staged.reverse()
        self._staged[0].numpy()[:] = [layer.row for layer in layers]
        self.rows.copy_(self._staged[0], non_blocking=True)
