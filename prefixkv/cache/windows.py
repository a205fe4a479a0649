"""Layers that attend to a sliding window: transformers' own cache layers, left alone beside the compressed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import CacheLayerMixin, DynamicSlidingWindowLayer

from prefixkv.cache.refusals import RefusingCache
from prefixkv.models.geometry import KVGeometry


class WindowedCache(RefusingCache):
    """A cache whose compressed layers are in `layers`, and whose window layers are in `windows`.

    Transformers counts all decoder layers; the budget knows only those that are compressed. What transformers asks by a
    layer's number is answered here for either kind.

    Attributes:
        layers: the layers that attend to the whole text, in order.
        windows: the others, by their number among all decoder layers.
        next_positions: (batch,), int64: the position that follows the text, in models whose positions have several axes
            and so do not equal the number of tokens; None for others.
    """

    def __init__(self, geometry: KVGeometry, layers: Sequence[CacheLayerMixin]) -> None:
        super().__init__(layers=list(layers))
        self.windows = {place: DynamicSlidingWindowLayer(geometry.window_tokens) for place in geometry.window_layers}
        self.next_positions: torch.Tensor | None = None
        self._window_tokens = geometry.window_tokens
        self._numbers = {place: number for number, place in enumerate(geometry.compressed_layers)}

    def number(self, layer_idx: int) -> int:
        """Number, among the compressed layers, of a decoder layer that is none of the windows."""
        return self._numbers[layer_idx]

    def update_window(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a window layer's new keys and values, which its attention sees through transformers' own mask."""
        layer = self.windows[layer_idx]
        keys, values = layer.update(key_states, value_states)
        if key_states.shape[2] > 1:
            # Transformers keeps a view of the whole chunk, which would stay in memory with it.
            layer.keys, layer.values = (None if part is None else part.clone() for part in (layer.keys, layer.values))
        return keys, values

    @property
    def window_bytes(self) -> int:
        """Bytes that the window layers hold."""
        held = [part for layer in self.windows.values() if layer.is_initialized for part in (layer.keys, layer.values)]
        return sum(part.untyped_storage().nbytes() for part in held if part is not None)

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        super().reset()
        self.next_positions = None
        self.windows = {place: DynamicSlidingWindowLayer(self._window_tokens) for place in self.windows}

    def _at(self, layer_idx: int) -> Any:
        return self.windows[layer_idx] if layer_idx in self.windows else self.layers[self._numbers[layer_idx]]

    def __len__(self) -> int:
        """All decoder layers."""
        return len(self.layers) + len(self.windows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens that a decoder layer has read."""
        return self._at(layer_idx).get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the mask of a decoder layer."""
        return self._at(layer_idx).get_mask_sizes(query_length)

    @property
    def is_sliding(self) -> list[bool]:
        """For every decoder layer, whether it attends to a window."""
        return [place in self.windows for place in range(len(self))]

    @property
    def is_linear(self) -> list[bool]:
        """None is."""
        return [False] * len(self)

    is_dummy = is_linear
