"""A row of the compressed cache at one moment, and the way back: bit for bit what the cache held.

Knows nothing of conversations or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.cache.states import StateTensors, fill_states, state_tensors


@dataclass(frozen=True)
class LayerSnapshot:
    """One layer's entries, in the order of its buffer; the buffer's free part is not copied.

    Attributes:
        keys: (1, kv_heads, kept_tokens, head_dim), after RoPE, or packed rows; None for an empty layer.
        values: same shape.
        positions: (1, heads, kept_tokens), int64.
        importance: (1, heads, kept_tokens), float32.
        window: (slots,), int32: those that decoding overwrites next, oldest first.
        seen_tokens: tokens read.
        anchor_seen: tokens read when the layer was last compacted.
        anchor_kept: entries stored then.
        fine: keys, values, positions and importance of the fine run; empty where there is none.
    """

    keys: torch.Tensor | None
    values: torch.Tensor | None
    positions: torch.Tensor | None
    importance: torch.Tensor | None
    window: torch.Tensor
    seen_tokens: int
    anchor_seen: int
    anchor_kept: int
    fine: tuple[torch.Tensor, ...] = ()

    @classmethod
    def take(cls, layer: CompressedLayer, copied: bool = True) -> LayerSnapshot:
        """Take a layer that is not in the middle of a forward pass; `copied` as for `CacheSnapshot.take`."""
        kept, own = layer.kept_tokens, _host if copied else _same
        return cls(
            _entries(layer.keys, kept, own),
            _entries(layer.values, kept, own),
            _entries(layer.positions, kept, own),
            _entries(layer.importance, kept, own),
            own(layer.queue),
            layer.seen_tokens,
            layer.anchor_seen,
            layer.anchor_kept,
            tuple(own(tensor) for tensor in layer.fine.tensors) if layer.fine.kept_tokens else (),
        )

    @property
    def kept_tokens(self) -> int:
        """Entries stored."""
        return 0 if self.keys is None else self.keys.shape[2]

    def restore(self, layer: CompressedLayer, device: torch.device | None) -> None:
        """Make a layer what it was; its buffers are exactly as large as its entries, `device` as for all layers."""
        layer.reset()
        for name in ("keys", "values", "positions", "importance"):
            copied = getattr(self, name)
            # A second copy: decoding overwrites buffers in place, and a snapshot may be restored more than once.
            setattr(layer, name, None if copied is None else _copied(copied, device))
        if self.keys is not None:
            layer.set_queue(self.window.to(device or self.keys.device, torch.int32, copy=True))
        layer.seen_tokens, layer.kept_tokens = self.seen_tokens, self.kept_tokens
        layer.anchor_seen, layer.anchor_kept = self.anchor_seen, self.anchor_kept
        layer.is_initialized = self.keys is not None
        if self.fine:
            keys, values, *notes = (_copied(tensor, device) for tensor in self.fine)
            layer.fine.fill((keys, values, tuple(notes)))


@dataclass(frozen=True)
class WindowSnapshot:
    """One layer that attends to a sliding window.

    Attributes:
        keys: (1, kv_heads, entries, head_dim).
        values: same shape.
        seen_tokens: tokens read.
    """

    keys: torch.Tensor
    values: torch.Tensor
    seen_tokens: int


@dataclass(frozen=True)
class CacheSnapshot:
    """All layers of one row.

    Attributes:
        layers: one per compressed layer.
        limits: entries that each may hold under a hard limit; empty before the first chunk.
        windows: the window layers that have read something, by their number among all decoder layers.
        states: tensors of the layers that keep a state, see `state_tensors`.
        next_positions: (1,), int64, see `CacheRow`; None for most models.
        bits: in which elements are stored; None for the model's own precision.
        is_text: (1, tokens), bool: which tokens are text, as far as somebody said; None where all are.
    """

    layers: tuple[LayerSnapshot, ...]
    limits: tuple[int, ...]
    windows: dict[int, WindowSnapshot] = field(default_factory=dict)
    next_positions: torch.Tensor | None = None
    bits: int | None = None
    is_text: torch.Tensor | None = None
    states: StateTensors = field(default_factory=dict)

    @classmethod
    def take(cls, row: CacheRow, copied: bool = True) -> CacheSnapshot:
        """Take a row between two forward passes.

        Args:
            row: stays as it is.
            copied: whether its tensors are copied to host memory; else they are the row's own, which is reset next or
                does not change before the snapshot is used.
        """
        own = _host if copied else _same
        windows = {
            place: WindowSnapshot(own(layer.keys), own(layer.values), layer.cumulative_length)
            for place, layer in row.windows.items()
            if layer.keys is not None and layer.values is not None and layer.cumulative_length
        }
        positions, is_text = (None if tensor is None else own(tensor) for tensor in (row.next_positions, row.is_text))
        layers = tuple(LayerSnapshot.take(layer, copied) for layer in row.layers)
        states = {key: own(tensor) for key, tensor in state_tensors(row.states).items()}
        return cls(layers, tuple(row.limits), windows, positions, row.bits, is_text, states)

    def restore(self, row: CacheRow, device: torch.device | None) -> None:
        """Make a row what it was.

        Args:
            row: of the same model, budget and method; what it holds is freed first.
            device: where the model is; where it is spread over several, a layer follows its keys when they come. None:
                where each tensor is, which were not copied then.
        """
        row.reset()
        for compressed, snapshot in zip(row.layers, self.layers, strict=True):
            snapshot.restore(compressed, device)
        for place, window in self.windows.items():
            keys, values = (_copied(part, device) for part in (window.keys, window.values))
            layer = row.windows[place]
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values, layer.cumulative_length = keys, values, window.seen_tokens
        fill_states(row.states, {key: _copied(tensor, device) for key, tensor in self.states.items()})
        row.limits, row.bits = list(self.limits), self.bits
        row.fine = max((layer.fine.kept_tokens for layer in row.layers), default=0)
        row.is_text = None if self.is_text is None else _copied(self.is_text, device)
        row.next_positions = None if self.next_positions is None else _copied(self.next_positions, device)


def copy_of(cache: PrefixKVCache) -> PrefixKVCache:
    """A second cache that holds, on buffers of its own, what a cache holds between two forward passes.

    Args:
        cache: of one row, stays as it is; a profile's queries are shared, since they are only read. Each tensor's copy
            is where the tensor is.
    """
    second = cache.emptied()
    CacheSnapshot.take(cache.row, copied=False).restore(second.row, None)
    return second


def _copied(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    return tensor.to(device or tensor.device, copy=True)


def _host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("cpu", copy=True).contiguous()


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _entries(
    tensor: torch.Tensor | None, kept: int, own: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor | None:
    return None if tensor is None else own(tensor[:, :, :kept])
