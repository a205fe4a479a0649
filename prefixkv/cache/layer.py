"""One layer of the compressed cache: how a chunk or a token enters it, and what goes.

A layer knows how many entries it has read and which it still stores; how many it may store is told to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch

from prefixkv.cache.stored_entries import StoredEntries
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.dispatch import gather, pack
from prefixkv.kernels.gathering import Move

GROWTH = 32
"""A full buffer grows by one part in so many (and one entry): few copies, and little allocated but not used."""


class CompressedLayer(StoredEntries):
    """Keys and values of one layer in a buffer of its own size.

    A chunk of several tokens (a prompt, a later turn) arrives beside the buffer, is attended to whole, and is then
    compacted: `keep` copies the chosen entries into a new, exactly sized buffer. Where the layer's share is not known
    yet, `hold` leaves them as they arrived until `shrunk` says how many stay. A single token is written in place:
    behind the stored entries, or over the oldest entry of the decode window where the layer is at its limit. Keys are
    stored after RoPE, so the order in the buffer does not matter to a single query.

    Attributes:
        arriving: keys and values of a chunk, with the stored ones before them, until they are compacted.
        seen_tokens: tokens read, kept or not.
        kept_tokens: entries stored or held.
    """

    def __init__(self, head_dim: int, dtype: torch.dtype) -> None:
        """Make an empty layer.

        Args:
            head_dim: elements of a key or a value.
            dtype: in which the model computes.
        """
        super().__init__(head_dim, dtype)
        self.reset()

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self.free()
        self.arriving: tuple[torch.Tensor, torch.Tensor] | None = None
        self._order: torch.Tensor | None = None
        self.window: deque[int] = deque()
        self.seen_tokens = self.anchor_seen = self.anchor_kept = 0
        self.is_initialized = False

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
            self.follow(keys.device)
            self._restore_text_order()
            stored_keys, stored_values = self.entries
            keys = torch.cat([stored_keys, keys], dim=2)
            values = torch.cat([stored_values, values], dim=2)
        self.is_initialized = True
        self.arriving = keys, values
        return keys, values

    def keep(
        self, indices: torch.Tensor | None, importance: torch.Tensor, chunk_len: int, bits: int | None = None
    ) -> None:
        """Store the chosen ones of the entries that `arrive` returned in a buffer of exactly their number.

        Args:
            indices: (batch, heads, kept_len), int64, into the entries that `arrive` returned, in the order of storage;
                None for all in text order.
            importance: (batch, heads, entries), float32, of the same entries.
            chunk_len: tokens of the chunk.
            bits: 8, 4 or 2 to store them packed. What is packed in so many bits already is copied as it is.
        """
        self._take_in(importance, chunk_len)
        move, bits = self._compacted(indices, self.kept_tokens if indices is None else indices.shape[-1], bits)
        self.fill(gather([move], bits)[0])

    def hold(self, importance: torch.Tensor, chunk_len: int) -> None:
        """Count the chunk as read and leave its entries as they are, until `shrunk` says how many stay.

        Args:
            importance: (batch, heads, entries), float32, of the entries that `arrive` returned.
            chunk_len: tokens of the chunk.
        """
        self._take_in(importance, chunk_len)
        assert self.arriving is not None
        self.arriving = _alone(self.arriving[0]), _alone(self.arriving[1])

    def rank(self, order: torch.Tensor | None, ranks: torch.Tensor | None) -> None:
        """Say in which order held entries are given up; one of the two is given.

        Args:
            order: (batch, heads, entries), int64: those that stay longest first; they are stored in this order.
            ranks: (batch, heads, entries), int32: each entry's place in such an order, where they are stored in the
                order of the text.
        """
        self._order, self.ranks = order, ranks

    def _take_in(self, importance: torch.Tensor, chunk_len: int) -> None:
        if self.arriving is None:
            raise PrefixKVError("there is no chunk to compact")
        keys = self.arriving[0]
        positions = torch.arange(self.seen_tokens, self.seen_tokens + chunk_len, device=keys.device)
        positions = positions.expand(*importance.shape[:2], -1)
        if self.positions is not None:
            positions = torch.cat([self.positions[..., : self.kept_tokens], positions], dim=-1)
        if self.bits is None:
            self.keys = self.values = None
        elif self.keys is not None and self.values is not None:
            self.keys, self.values = (part[:, :, : self.kept_tokens] for part in (self.keys, self.values))
        self.positions, self.importance = positions, importance
        self.seen_tokens += chunk_len
        self.kept_tokens = keys.shape[2]

    def shrunk(
        self, count: int, bits: int | None = None, chosen: torch.Tensor | None = None
    ) -> tuple[Move, int | None]:
        """How only the entries that rank first are stored, of those that are held or, later, stored.

        The layer is not usable before `fill`.

        Args:
            count: entries that stay.
            bits: 8, 4 or 2 to store held entries packed.
            chosen: (batch, heads, count), int64: which these are, where the layer has ranks and not all stay; else
                they are the first ones.

        Returns:
            The move, and the bits in which it has to pack; None where it copies.
        """
        if self.keys is None and self.arriving is None:
            raise PrefixKVError("there is nothing to shrink")
        if self._order is not None:
            chosen, self._order = self._order[..., :count], None
        return self._compacted(chosen, count, bits)

    def _compacted(self, indices: torch.Tensor | None, count: int, bits: int | None) -> tuple[Move, int | None]:
        rows, self.arriving = self.arriving, None
        if rows is None:
            bits = None
        elif bits is not None and self.keys is not None and self.values is not None:
            # They were packed before the chunk: packing them again would lose more.
            keys, values = (
                torch.cat([old, pack(new[:, :, old.shape[2] :], bits)], dim=2)
                for old, new in zip((self.keys, self.values), rows, strict=True)
            )
            rows, bits = (keys, values), None
        return self.move(rows, indices, count), bits

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
        self.follow(keys.device)
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

    def _restore_text_order(self) -> None:
        """Undo the order that ranking and overwriting have left, so that ties are again broken by position."""
        assert self.positions is not None
        positions = self.positions[..., : self.kept_tokens]
        if bool((positions.diff(dim=-1) < 0).any()):
            self.fill(gather([self.move(None, positions.argsort(dim=-1), self.kept_tokens)])[0])

    def get_seq_length(self) -> int:
        """Tokens read: the position of the next token, whatever was evicted."""
        return self.seen_tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of a mask over all tokens read and the new ones."""
        return self.seen_tokens + query_length, 0


def _alone(part: torch.Tensor) -> torch.Tensor:
    """The same numbers, in memory that holds nothing else."""
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone(memory_format=torch.contiguous_format)
