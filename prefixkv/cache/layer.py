"""One layer of the compressed cache: how a chunk or a token enters it, and what goes.

A layer knows how many entries it has read and which it still stores; how many it may store is told to it.
"""

from __future__ import annotations

import torch

from prefixkv.cache.decode_limit import DecodeLimit
from prefixkv.cache.fine_run import EntriesInRuns
from prefixkv.cache.stored_entries import packed_pair
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.dispatch import gather
from prefixkv.kernels.gathering import Move
from prefixkv.policy.precision import FINE_OF

GROWTH = 32
"""A full buffer grows by one part in so many (and one entry): few copies, and little allocated but not used."""


class CompressedLayer(EntriesInRuns):
    """Keys and values of one layer in a buffer of its own size.

    A chunk of several tokens (a prompt, a later turn) arrives beside the buffer, is attended to whole, and is then
    compacted: `keep` copies the chosen entries into a new, exactly sized buffer. Where the layer's share is not known
    yet, `hold` leaves them as they arrived until `shrunk` says how many stay. A single token is written in place:
    behind the stored entries, or over the oldest entry of the decode window where the layer is at its limit. Keys are
    stored after RoPE, so the order in the buffer does not matter to a single query.

    The eviction queue is a ring of slots, so that a step on the device can turn it by itself. What is in it need not be
    known to the host, which only counts.

    Attributes:
        arriving: keys and values of a chunk, with the stored ones before them, until they are compacted.
        order: (capacity,), int32: the ring. Its slots are those that decoding may evict, the oldest at `head`.
        head: place of the oldest slot in the ring.
        count: slots in the ring.
        seen_tokens: tokens read, kept or not.
        kept_tokens: entries stored or held, without those of a fine run.
    """

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        self.free()
        self.arriving: tuple[torch.Tensor, torch.Tensor] | None = None
        self._order: torch.Tensor | None = None
        self.order: torch.Tensor | None = None
        self.head = self.count = 0
        self.seen_tokens = self.anchor_seen = self.anchor_kept = 0
        self.is_initialized = False

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that the layer holds, with the queue and a chunk that waits."""
        held = (self.order, self._order, *(self.arriving or ()))
        return [*super().tensors, *(tensor for tensor in held if tensor is not None)]

    def follow(self, device: torch.device) -> None:
        """Bring entries and queue to where the layer computes."""
        super().follow(device)
        self.order = None if self.order is None else self.order.to(device)

    def arrive(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in a chunk; it waits beside the buffer until `keep` is told what stays.

        Args:
            keys: (1, kv_heads, chunk_len, head_dim), after RoPE.
            values: same shape.

        Returns:
            (1, kv_heads, kept_tokens + chunk_len, head_dim): stored entries in text order, the chunk behind them.
        """
        if self.arriving is not None:
            raise PrefixKVError(
                "the previous chunk was never compacted: run the model inside `with prefixkv.compress(model) as cache`"
            )
        if self.kept_tokens:
            self.follow(keys.device)
            if self.fine.kept_tokens or self.fine_wanted:
                self.unite()
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
            indices: (1, heads, kept_len), int64, into the entries that `arrive` returned, in the order of storage;
                None for all in text order.
            importance: (1, heads, entries), float32, of the same entries.
            chunk_len: tokens of the chunk.
            bits: one of `PAIRS` to store them packed. What is packed in so many bits already is copied as it is.
        """
        self._take_in(importance, chunk_len)
        move, bits = self._compacted(indices, self.kept_tokens if indices is None else indices.shape[-1], bits)
        self.fill(gather([move], bits)[0])

    def hold(self, importance: torch.Tensor, chunk_len: int) -> None:
        """Count the chunk as read and leave its entries as they are, until `shrunk` says how many stay.

        Args:
            importance: (1, heads, entries), float32, of the entries that `arrive` returned.
            chunk_len: tokens of the chunk.
        """
        self._take_in(importance, chunk_len)
        assert self.arriving is not None
        self.arriving = _alone(self.arriving[0]), _alone(self.arriving[1])

    def rank(self, order: torch.Tensor | None, ranks: torch.Tensor | None) -> None:
        """Say in which order held entries are given up; one of the two is given.

        Args:
            order: (1, heads, entries), int64: those that stay longest first; they are stored in this order.
            ranks: (1, heads, entries), int32: each entry's place in such an order, where they are stored in the
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
            bits: one of `PAIRS` to store held entries packed.
            chosen: (1, heads, count), int64: which these are, where the layer has ranks and not all stay; else
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
            self.shorten_fine(count)
            bits, count = None, self.in_buffer(count)
        elif self.fine_wanted:
            assert bits is not None
            indices, count = self.write_fine(rows, indices, count, FINE_OF[bits])
        elif bits is not None and self.keys is not None and self.values is not None:
            # They were packed before the chunk: packing them again would lose more.
            keys, values = (part[:, :, self.keys.shape[2] :] for part in rows)
            keys, values = packed_pair(keys, values, bits)
            rows, bits = (torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)), None
        return self.move(rows, indices, count), bits

    def open_queue(self, *slots: range) -> None:
        """Mark the compaction as done.

        Args:
            slots: entries that may be evicted while decoding, the first one first; generated entries follow them.
        """
        assert self.keys is not None
        device = self.device
        parts = [torch.arange(each.start, each.stop, each.step, dtype=torch.int32, device=device) for each in slots]
        self.set_queue(torch.cat(parts))
        self.anchor_seen, self.anchor_kept = self.seen_tokens, self.kept_tokens

    def set_queue(self, slots: torch.Tensor) -> None:
        """Make the eviction queue anew, with room for every slot of the buffer.

        Args:
            slots: (count,), int32, the oldest first.
        """
        assert self.keys is not None
        self.order = slots.new_empty(self.keys.shape[2])
        self.order[: len(slots)] = slots
        self.head, self.count = 0, len(slots)

    @property
    def queue(self) -> torch.Tensor:
        """The slots that decoding evicts next, (count,), int32, the oldest first."""
        if self.order is None:
            return torch.empty(0, dtype=torch.int32)
        end = self.head + self.count
        if end <= len(self.order):
            return self.order[self.head : end]
        return torch.cat([self.order[self.head :], self.order[: end - len(self.order)]])

    def write(self, keys: torch.Tensor, values: torch.Tensor, limit: DecodeLimit) -> None:
        """Store the entry of one generated token in place.

        Evicting comes before attending, so the layer never holds more than its limit; the new token itself is seen.

        Args:
            keys: (1, kv_heads, 1, head_dim), after RoPE; or packed already, as the entries are.
            values: same shape.
            limit: of entries; at it the oldest entry of the queue is overwritten.
        """
        self.follow(keys.device)
        self.reserve(limit, 1)
        self.put(self.next_slot(limit), keys, values, self.seen_tokens)
        self.count_steps(limit, 1)

    def next_slot(self, limit: DecodeLimit) -> torch.Tensor:
        """Where the next token's entry goes, (1,), int64: taken off the queue's oldest end and put at the newest."""
        assert self.order is not None
        if self.kept_tokens < limit.allowed(self.seen_tokens):
            slot = torch.full((1,), self.kept_tokens, device=self.order.device)
        else:
            slot = self.order[self.head : self.head + 1].long()
        newest = (self.head + self.count) % len(self.order)
        self.order[newest : newest + 1] = slot
        return slot

    def reserve(self, limit: DecodeLimit, steps: int) -> None:
        """Make room for so many further tokens; a buffer that grows does so ahead, unless its limit is fixed.

        Args:
            limit: of entries.
            steps: tokens that will be read.
        """
        if self.keys is None:
            raise PrefixKVError("the first tokens must arrive as a chunk")
        needed = limit.kept_after(self.kept_tokens, self.seen_tokens, steps)
        if needed > self.keys.shape[2]:
            ahead = needed + self.kept_tokens // GROWTH
            self._grow(ahead if limit.fixed is None else min(limit.fixed, ahead))
            self.set_queue(self.queue)

    def steps_left(self, limit: DecodeLimit, most: int) -> int:
        """Further tokens, up to `most`, for which the buffer has room."""
        assert self.keys is not None
        return limit.steps_within(self.keys.shape[2], self.kept_tokens, self.seen_tokens, most)

    def count_steps(self, limit: DecodeLimit, steps: int) -> None:
        """Count tokens as read whose entries are stored and whose slots have gone through the queue.

        Args:
            limit: of entries.
            steps: such tokens.
        """
        assert self.order is not None
        kept = limit.kept_after(self.kept_tokens, self.seen_tokens, steps)
        added = kept - self.kept_tokens
        self.head = (self.head + steps - added) % len(self.order)
        self.count += added
        self.kept_tokens = kept
        self.seen_tokens += steps

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
