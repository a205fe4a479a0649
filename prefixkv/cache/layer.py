"""One layer of the compressed cache: the only code that moves or frees keys and values.

A layer knows how many entries it has read and which it still stores; how many it may store is told to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch

from prefixkv.cache.refusals import RefusingLayer
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.dispatch import pack
from prefixkv.kernels.packing import STEP_BYTES, unpack

GROWTH = 32
"""A full buffer grows by one part in so many (and one entry): few copies, and little allocated but not used."""


class CompressedLayer(RefusingLayer):
    """Keys and values of one layer in a buffer of its own size.

    A chunk of several tokens (a prompt, a later turn) arrives beside the buffer, is attended to whole, and is then
    compacted: `keep` copies the chosen entries into a new, exactly sized buffer. A single token is written in place:
    behind the stored entries, or over the oldest entry of the decode window where the layer is at its limit. Keys are
    stored after RoPE, so the order in the buffer does not matter to a single query.

    Entries may be stored packed (`prefixkv.kernels.packing`): a buffer's rows are bytes then, and what is attended
    to is unpacked beside it.

    Attributes:
        keys: (batch, kv_heads, capacity, head_dim) or None; the first `kept_tokens` are in use. Packed, uint8 rows.
        values: same shape.
        positions: (batch, heads, capacity), int64, original position of each entry; `heads` is 1 where all kv heads
            share a choice.
        importance: (batch, heads, capacity), float32; generated entries have 0.
        seen_tokens: tokens read, kept or not.
        kept_tokens: entries stored.
    """

    def __init__(self, head_dim: int, dtype: torch.dtype) -> None:
        """Make an empty layer.

        Args:
            head_dim: elements of a key or a value.
            dtype: in which the model computes.
        """
        super().__init__()
        self.head_dim, self.model_dtype = head_dim, dtype
        self.reset()

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self.keys = self.values = None
        self.positions: torch.Tensor | None = None
        self.importance: torch.Tensor | None = None
        self.arriving: tuple[torch.Tensor, torch.Tensor] | None = None
        self.window: deque[int] = deque()
        self.seen_tokens = self.kept_tokens = self.anchor_seen = self.anchor_kept = 0
        self.is_initialized = False

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the buffers that exist, read off their storage."""
        return sum(tensor.untyped_storage().nbytes() for tensor in (self.keys, self.values) if tensor is not None)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the buffers' part that holds entries."""
        buffers = [tensor[:, :, :1] for tensor in (self.keys, self.values) if tensor is not None]
        return self.kept_tokens * sum(tensor.numel() * tensor.element_size() for tensor in buffers)

    @property
    def bits(self) -> int | None:
        """Bits in which an element is stored; None for the model's own precision."""
        if self.keys is None or self.keys.dtype != torch.uint8:
            return None
        return (self.keys.shape[3] - STEP_BYTES) * 8 // self.head_dim

    def unpacked(self, buffer: torch.Tensor) -> torch.Tensor:
        """What a buffer, or a part of one, holds, in the model's precision.

        Args:
            buffer: (batch, kv_heads, entries, head_dim), or packed rows.
        """
        return buffer if self.bits is None else unpack(buffer, self.bits, self.model_dtype)

    @property
    def entries(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all stored entries, (batch, kv_heads, kept_tokens, head_dim); views where not packed."""
        assert self.keys is not None
        assert self.values is not None
        keys, values = (self.unpacked(buffer[:, :, : self.kept_tokens]) for buffer in (self.keys, self.values))
        return keys, values

    def arrive(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a chunk; it waits beside the buffer until `keep` is told what stays.

        Args:
            keys: (batch, kv_heads, chunk_len, head_dim), after RoPE.
            values: same shape.

        Returns:
            (batch, kv_heads, kept_tokens + chunk_len, head_dim): stored entries in text order, the chunk behind them.
        """
        if self.arriving is not None:
            raise PrefixKVError(
                "the previous chunk was never compacted: run the model inside `with prefixkv.compress(model) as cache`"
            )
        if self.kept_tokens:
            self._restore_text_order()
            stored_keys, stored_values = self.entries
            keys = torch.cat([stored_keys, keys], dim=2)
            values = torch.cat([stored_values, values], dim=2)
        self.is_initialized = True
        self.arriving = keys, values
        return keys, values

    def keep(self, indices: torch.Tensor, importance: torch.Tensor, chunk_len: int, bits: int | None = None) -> None:
        """Store the chosen ones of the entries that `arrive` returned in a buffer of exactly their number.

        Args:
            indices: (batch, heads, kept_len), int64, into the entries that `arrive` returned, in the order of storage.
            importance: (batch, heads, entries), float32, of the same entries.
            chunk_len: tokens of the chunk.
            bits: 8 or 4 to store them packed. What is packed in so many bits already is copied as it is.
        """
        if self.arriving is None:
            raise PrefixKVError("there is no chunk to compact")
        keys, values = self.arriving
        positions = torch.arange(self.seen_tokens, self.seen_tokens + chunk_len, device=keys.device)
        positions = positions.expand(*importance.shape[:2], -1)
        if self.positions is not None:
            positions = torch.cat([self.positions[..., : self.kept_tokens], positions], dim=-1)
        if bits is not None:
            keys, values = self._packed(keys, self.keys, bits), self._packed(values, self.values, bits)
        self.arriving = self.keys = self.values = None
        self.seen_tokens += chunk_len
        self._store(keys, values, positions, importance, indices)

    def _packed(self, entries: torch.Tensor, stored: torch.Tensor | None, bits: int) -> torch.Tensor:
        if self.bits != bits or stored is None:
            return pack(entries, bits)
        return torch.cat([stored[:, :, : self.kept_tokens], pack(entries[:, :, self.kept_tokens :], bits)], dim=2)

    def shrink(self, indices: torch.Tensor) -> None:
        """Store only the chosen ones of the stored entries.

        Args:
            indices: (batch, heads, kept_len), int64, into the stored entries, in the new order of storage.
        """
        if self.keys is None or self.values is None or self.positions is None or self.importance is None:
            raise PrefixKVError("there is nothing to shrink")
        self._store(self.keys, self.values, self.positions, self.importance, indices)

    def repack(self, bits: int) -> None:
        """Store the entries in other bits, or packed for the first time."""
        keys, values = self.entries
        self.keys, self.values = pack(keys, bits), pack(values, bits)

    def open_window(self, slots: Iterable[int]) -> None:
        """Mark the compaction as done.

        Args:
            slots: entries that may be evicted while decoding, the first one first; generated entries follow them.
        """
        self.window = deque(slots)
        self.anchor_seen, self.anchor_kept = self.seen_tokens, self.kept_tokens

    def write(
        self, keys: torch.Tensor, values: torch.Tensor, limit: int, is_hard: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the entry of one generated token in place.

        Evicting comes before attending, so the layer never holds more than its limit; the new token itself is seen.

        Args:
            keys: (batch, kv_heads, 1, head_dim), after RoPE.
            values: same shape.
            limit: entries the layer may hold; at that number the oldest entry of the window is overwritten.
            is_hard: see `next_slot`.

        Returns:
            All stored entries, (batch, kv_heads, kept_tokens, head_dim); views where they are not packed.
        """
        slot = self.next_slot(limit, is_hard)
        self.occupy(slot)
        assert self.keys is not None
        assert self.values is not None
        assert self.positions is not None
        assert self.importance is not None
        for buffer, new in ((self.keys, keys), (self.values, values)):
            buffer[:, :, slot] = new[:, :, 0] if self.bits is None else pack(new[:, :, 0], self.bits)
        self.positions[..., slot] = self.seen_tokens - 1
        self.importance[..., slot] = 0.0
        return self.entries

    def next_slot(self, limit: int, is_hard: bool = True) -> int:
        """Where the next token's entry goes; room is made for it, nothing else changes.

        Args:
            limit: entries the layer may hold; at that number the oldest entry of the window is overwritten.
            is_hard: whether the buffer may not be larger than the limit either. Otherwise, as the limit rises token by
                token, the buffer grows ahead of it, or it would be copied with every step.
        """
        if self.keys is None:
            raise PrefixKVError("the first tokens must arrive as a chunk")
        if self.kept_tokens >= limit:
            return self.window[0]
        if self.kept_tokens == self.keys.shape[2]:
            ahead = self.kept_tokens + self.kept_tokens // GROWTH + 1
            self._grow(min(limit, ahead) if is_hard else ahead)
        return self.kept_tokens

    def occupy(self, slot: int) -> None:
        """Count the next token as read and its entry as stored; whoever calls this writes the buffers.

        Args:
            slot: from `next_slot`.
        """
        if slot == self.kept_tokens:
            self.kept_tokens += 1
        else:
            self.window.popleft()
        self.window.append(slot)
        self.seen_tokens += 1

    def take_rows(self, others: Sequence[CompressedLayer]) -> None:
        """Take over the rows of layers that have read texts of one length and keep as many entries; they end empty.

        Raises:
            PrefixKVError: a layer differs in length.
        """
        lengths = {(layer.seen_tokens, layer.kept_tokens, tuple(layer.window)) for layer in (self, *others)}
        if len(lengths) > 1:
            raise PrefixKVError(
                "rows can be joined only where each layer has read and keeps as many tokens in all of them"
            )
        for name in ("keys", "values", "positions", "importance"):
            setattr(self, name, torch.cat([getattr(layer, name) for layer in (self, *others)]))
            for layer in others:
                setattr(layer, name, None)
        for layer in others:
            layer.reset()

    def _store(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        importance: torch.Tensor,
        indices: torch.Tensor,
    ) -> None:
        batch, kv_heads, _, head_dim = keys.shape
        self.kept_tokens = indices.shape[-1]
        entries = indices.expand(batch, kv_heads, -1)[..., None].expand(-1, -1, -1, head_dim)
        self.keys = keys.gather(2, entries)
        self.values = values.gather(2, entries)
        self.positions = positions.gather(-1, indices)
        self.importance = importance.gather(-1, indices)

    def _restore_text_order(self) -> None:
        """Undo the order that ranking and overwriting have left, so that ties are again broken by position."""
        assert self.positions is not None
        positions = self.positions[..., : self.kept_tokens]
        if bool((positions.diff(dim=-1) < 0).any()):
            self.shrink(positions.argsort(dim=-1))

    def _grow(self, capacity: int) -> None:
        for name in ("keys", "values", "positions", "importance"):
            old = getattr(self, name)
            dim = 2
            new = old.new_empty(*old.shape[:dim], capacity, *old.shape[dim + 1 :])
            new[:, :, : self.kept_tokens] = old[:, :, : self.kept_tokens]
            setattr(self, name, new)

    def get_seq_length(self) -> int:
        """Tokens read: the position of the next token, whatever was evicted."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask over all tokens read and the new ones."""
        return self.seen_tokens + query_length, 0
