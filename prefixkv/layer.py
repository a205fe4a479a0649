"""One layer of the compressed cache: the only code that moves or frees keys and values.

A layer knows how many entries it has read and which it still stores; how many it may store is told to it.
"""

from __future__ import annotations

from collections import deque

import torch
from transformers.cache_utils import CacheLayerMixin

from prefixkv.errors import PrefixKVError

GROWTH = 32
"""A full buffer grows by one part in so many (and one entry): few copies, and little allocated but not used."""


class CompressedLayer(CacheLayerMixin):
    """Keys and values of one layer in a buffer of its own size.

    A chunk of several tokens (a prompt, a later turn) arrives beside the buffer, is attended to whole, and is then
    compacted: `keep` copies the chosen entries into a new, exactly sized buffer. A single token is written in place:
    behind the stored entries, or over the oldest entry of the decode window where the layer is at its limit. Keys are
    stored after RoPE, so the order in the buffer does not matter to a single query.

    Attributes:
        keys: (batch, kv_heads, capacity, head_dim) or None; the first `kept_tokens` are in use.
        values: same shape.
        positions: (batch, heads, capacity), int64, original position of each entry; `heads` is 1 where all kv heads
            share a choice.
        importance: (batch, heads, capacity), float32; generated entries have 0.
        seen_tokens: tokens read, kept or not.
        kept_tokens: entries stored.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
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
        return 0 if self.keys is None else self.buffer_bytes * self.kept_tokens // self.keys.shape[2]

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to prepare: buffers are made when their size is known."""
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refused: the cache that owns the layer decides how its entries are stored."""
        raise PrefixKVError("a compressed layer is written through its PrefixKVCache only")

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
        if self.kept_tokens and self.keys is not None and self.values is not None:
            self._restore_text_order()
            keys = torch.cat([self.keys[:, :, : self.kept_tokens], keys], dim=2)
            values = torch.cat([self.values[:, :, : self.kept_tokens], values], dim=2)
        self.is_initialized = True
        self.arriving = keys, values
        return keys, values

    def keep(self, indices: torch.Tensor, importance: torch.Tensor, chunk_len: int) -> None:
        """Store the chosen ones of the entries that `arrive` returned in a buffer of exactly their number.

        Args:
            indices: (batch, heads, kept_len), int64, ascending, into the entries that `arrive` returned.
            importance: (batch, heads, entries), float32, of the same entries.
            chunk_len: tokens of the chunk.
        """
        if self.arriving is None:
            raise PrefixKVError("there is no chunk to compact")
        keys, values = self.arriving
        positions = torch.arange(self.seen_tokens, self.seen_tokens + chunk_len, device=keys.device)
        positions = positions.expand(*importance.shape[:2], -1)
        if self.positions is not None:
            positions = torch.cat([self.positions[..., : self.kept_tokens], positions], dim=-1)
        self.arriving = self.keys = self.values = None
        self.seen_tokens += chunk_len
        self._store(keys, values, positions, importance, indices)

    def shrink(self, indices: torch.Tensor) -> None:
        """Store only the chosen ones of the stored entries.

        Args:
            indices: (batch, heads, kept_len), int64, ascending, into the stored entries.
        """
        if self.keys is None or self.values is None or self.positions is None or self.importance is None:
            raise PrefixKVError("there is nothing to shrink")
        self._store(self.keys, self.values, self.positions, self.importance, indices)

    def open_window(self, start: int) -> None:
        """Mark the compaction as done: entries from index `start` on may be evicted while decoding, oldest first."""
        self.window = deque(range(start, self.kept_tokens))
        self.anchor_seen, self.anchor_kept = self.seen_tokens, self.kept_tokens

    def write(self, keys: torch.Tensor, values: torch.Tensor, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the entry of one generated token in place.

        Evicting comes before attending, so the layer never holds more than its limit; the new token itself is seen.

        Args:
            keys: (batch, kv_heads, 1, head_dim), after RoPE.
            values: same shape.
            limit: entries the layer may hold; at that number the oldest entry of the window is overwritten.

        Returns:
            Views of all stored entries, (batch, kv_heads, kept_tokens, head_dim).
        """
        if self.keys is None or self.values is None or self.positions is None or self.importance is None:
            raise PrefixKVError("the first tokens must arrive as a chunk")
        if self.kept_tokens < limit:
            slot = self.kept_tokens
            if slot == self.keys.shape[2]:
                self._grow(min(limit, slot + slot // GROWTH + 1))
            self.kept_tokens += 1
        else:
            slot = self.window.popleft()
        self.window.append(slot)
        self.keys[:, :, slot] = keys[:, :, 0]
        self.values[:, :, slot] = values[:, :, 0]
        self.positions[..., slot] = self.seen_tokens
        self.importance[..., slot] = 0.0
        self.seen_tokens += 1
        return self.keys[:, :, : self.kept_tokens], self.values[:, :, : self.kept_tokens]

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
        """Undo the order that overwriting has left, so that ties are again broken by position."""
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

    def get_max_length(self) -> int:
        """No limit on tokens read."""
        return -1

    get_max_cache_shape = get_max_length

    def crop(self, *args: object) -> None:
        """Refused: evicted entries cannot be brought back, so a compressed layer cannot be rewound."""
        raise PrefixKVError("a compressed cache cannot be cropped: assisted decoding is not supported, turn it off")

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Refused."""
        raise PrefixKVError("beam search on a compressed cache is not supported: set num_beams=1")

    batch_repeat_interleave = batch_select_indices = reorder_cache
