"""Layers that are left alone beside the compressed ones, as transformers asks a cache about them."""

from __future__ import annotations

from typing import Any

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.cache.states import RowStates, held_bytes
from prefixkv.cache.windows import window_bytes
from prefixkv.models.geometry import KVGeometry


class LeftLayers:
    """What transformers asks of a cache about layers that are not compressed, and what these hold.

    Attributes:
        rows: what is stored.
        states: of all rows together.
        geometry: the model's KV shape.
    """

    rows: list[CacheRow]
    states: RowStates

    @property
    def geometry(self) -> KVGeometry:
        """The model's KV shape."""
        raise NotImplementedError

    def open_rows(self, batch: int) -> None:
        """Make sure that there are so many rows."""
        raise NotImplementedError

    @property
    def window_bytes(self) -> int:
        """Bytes that the window layers of all rows hold."""
        return sum(window_bytes(layer) for row in self.rows for layer in row.windows.values())

    @property
    def state_bytes(self) -> int:
        """Bytes that the states of all rows hold."""
        return sum(held_bytes(row.states) for row in self.rows)

    @property
    def is_sliding(self) -> list[bool]:
        """For every decoder layer, whether it attends to a window."""
        return [place in self.geometry.window_layers for place in range(self.geometry.decoder_layers)]

    @property
    def is_linear(self) -> list[bool]:
        """For every decoder layer, whether it keeps a state and nothing else."""
        pure = set(self.geometry.state_layers) - set(self.geometry.hybrid_layers)
        return [place in pure for place in range(self.geometry.decoder_layers)]

    @property
    def is_dummy(self) -> list[bool]:
        """For every decoder layer, whether it keeps nothing."""
        return [place in self.geometry.bare_layers for place in range(self.geometry.decoder_layers)]

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """The last inputs of a layer's convolution, (batch, channels, kernel); None before the first token."""
        layer = self.states[layer_idx]
        return layer.conv_states[state_idx] if layer.has_previous_state[state_idx] else None

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        """A layer's recurrence, (batch, ...); None before the first token."""
        layer = self.states[layer_idx]
        return layer.recurrent_states[state_idx] if layer.has_previous_state[state_idx] else None

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Take in the newest inputs of a layer's convolution, as transformers' own cache does."""
        self.open_rows(conv_states.shape[0])
        found = self.states[layer_idx].update_conv_state(conv_states, state_idx, **kwargs)
        self.states.share(layer_idx)
        return found

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        """Take in a layer's recurrence, as transformers' own cache does."""
        self.open_rows(recurrent_states.shape[0])
        found = self.states[layer_idx].update_recurrent_state(recurrent_states, state_idx, **kwargs)
        self.states.share(layer_idx)
        return found

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        """Whether a layer, the last one where none is named, has read something."""
        layer = self.states[self.geometry.state_layers[-1] if layer_idx is None else layer_idx]
        return all(layer.has_previous_state.values()) if state_idx is None else layer.has_previous_state[state_idx]

    def is_recording_past(self, layer_idx: int) -> bool:
        """Never: a compressed cache is not cropped."""
        return False
