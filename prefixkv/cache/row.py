"""One prompt's compressed entries in all layers: takes in keys and values and keeps the whole within a budget.

A row knows nothing of transformers' caches, nor of other rows that are read or decoded in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from prefixkv.cache import hand_off
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.chunk import Chunk
from prefixkv.cache.decode_limit import DecodeLimit
from prefixkv.cache.hand_off import HandOff
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.row_usage import usage_of
from prefixkv.cache.states import new_states
from prefixkv.cache.usage import CacheUsage
from prefixkv.cache.windows import new_windows, update_window
from prefixkv.methods.method import Method
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec, get_codec
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.precision import Losses
from prefixkv.policy.text_marks import TextMarks

if TYPE_CHECKING:
    from prefixkv.cache.prefix_entries import PrefixEntries

MANY_STEPS = 2**20  # As good as for ever.


class CacheRow:
    """What one prompt and its answer keep, and how.

    A hard limit bounds the layers' buffers together; beside them one layer at a time exists as a working copy. Methods
    whose shares are known only when all layers have read (`Method.waits`) exceed it until then.
    Entries are stored in the codec's precision. With `auto` a method that packs does so once not all fit the budget.

    Attributes:
        geometry: the model's KV shape.
        budget: what may be stored.
        method: how it is chosen.
        codec: in which precision entries are stored.
        capacity: how many entries the budget holds.
        windows, states: layers that are left alone, by their number among all decoder layers.
        keep_fractions: proportions of the layers' shares from a configuration; None where the method finds them.
        look_ahead: a profile's queries, if the method uses them.
        bits: in which entries are stored, one of `PAIRS`; None for the model's own precision.
        fine: entries that each layer stores in more bits.
        limits: entries that each layer may hold under a hard limit; empty before the first chunk.
        is_text: (1, tokens), bool: which tokens are text, as far as somebody said; None where all are.
        prefix: entries that were read for several rows and come before the first chunk; None otherwise.
        chunk: a prompt, or a later turn, while it is read; None else.
        is_in_pass: whether a forward pass of the model is under way whose end `end_pass` will tell.
        beside: rows that are read in the same pass, this one among them.
        version: another number whenever buffers or counts change in other ways than by `count_step`.
    """

    def __init__(
        self,
        geometry: KVGeometry,
        budget: str | float | Budget = "20%",
        method: str | Method = DEFAULT_METHOD,
        keep_fractions: Sequence[float] | None = None,
        look_ahead: LookAhead | None = None,
        codec: str | Codec = DEFAULT_CODEC,
    ) -> None:
        """Make an empty row.

        Args:
            geometry: the model's KV shape.
            budget: what to keep, as `Budget.parse` reads it.
            method: name of a method.
            keep_fractions: see the attribute.
            look_ahead: a profile's queries, which make `guided` what it is; other methods do not use them.
            codec: name of a codec.

        Raises:
            OptionError: unknown method, budget or codec, or a codec that cannot store the model's vectors.
            BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        """
        self.geometry, self.budget, self.method = geometry, Budget.parse(budget), get_method(method)
        self.keep_fractions, self.codec = keep_fractions, get_codec(codec)
        self.look_ahead = None if look_ahead is None else look_ahead.used_by(self.method)
        losses = self.look_ahead.losses if self.look_ahead else Losses()
        self.capacity = Capacity(geometry, self.budget, self.method, losses, self.codec)
        kind = geometry.head_dim, getattr(torch, geometry.dtype), geometry.shape.value_dim
        self._layers = [CompressedLayer(*kind) for _ in range(geometry.layers)]
        self._numbers = {place: number for number, place in enumerate(geometry.compressed_layers)}
        self.is_in_pass, self.beside, self.version = False, 1, 0
        self.reset()

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        for layer in self._layers:
            layer.reset()
        self.windows, self.states = new_windows(self.geometry), new_states(self.geometry)
        self.bits: int | None = None
        self.fine, self.limits = 0, list[int]()
        self.is_text: torch.Tensor | None = None
        self._next_positions: torch.Tensor | None = None
        self.prefix: PrefixEntries | None = None
        self._marks, self._is_due, self._steps = TextMarks(None, 0), False, 0
        self.chunk: Chunk | None = None
        self.version += 1

    def emptied(self, budget: Budget | None = None) -> CacheRow:
        """An empty row of the same kind: same shape, method, shares, look-ahead queries and codec.

        Args:
            budget: instead of the row's own.
        """
        return type(self)(self.geometry, budget or self.budget, *self.rule)

    @property
    def rule(self) -> tuple[Method, Sequence[float] | None, LookAhead | None, Codec]:
        """How it is chosen what stays, and stored: what a row of the same kind is made with."""
        return self.method, self.keep_fractions, self.look_ahead, self.codec

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: method `full`, or a budget of 100 %."""
        return self.capacity.keeps_all

    @property
    def layers(self) -> list[CompressedLayer]:
        """The compressed layers, in order; steps that were only counted are made up for first."""
        if self._steps:
            steps, self._steps = self._steps, 0
            for index, layer in enumerate(self._layers):
                layer.count_steps(self.decode_limit(index), steps)
            if self._next_positions is not None:
                self._next_positions = self._next_positions + steps
        return self._layers

    @property
    def next_positions(self) -> torch.Tensor | None:
        """(1,), int64: the position that follows the text, where positions have several axes; else None."""
        return None if self._next_positions is None else self._next_positions + self._steps

    @next_positions.setter
    def next_positions(self, positions: torch.Tensor | None) -> None:
        self._next_positions = None if positions is None else positions - self._steps

    @property
    def seen_tokens(self) -> int:
        """Tokens that the row has read."""
        return self._layers[0].seen_tokens + self._steps

    @property
    def position(self) -> int:
        """Where the model believes the next token to be: the tokens read, or what the first layer keeps of them."""
        if self.prefix is not None:
            return self.prefix.tokens
        return self.layers[0].stored_tokens if self.method.positions == "compressed" else self.seen_tokens

    def seen_at(self, place: int) -> int:
        """Tokens that one of all decoder layers has read, those of a prefix among them."""
        seen = self._layers[self._numbers.get(place, 0)].seen_tokens + self._steps
        seen = int(self.windows[place].get_seq_length()) if place in self.windows else seen
        return self.prefix.tokens if self.prefix is not None and not seen else seen

    def kept_positions(self, layer: int) -> torch.Tensor:
        """Original positions of a layer's entries, (1, heads, kept_tokens), int64, in the order of the buffer."""
        return self.layers[layer].kept_positions

    def usage(self) -> CacheUsage:
        """What is stored now, against a 16-bit cache of the same tokens."""
        return usage_of(self)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all entries in their buffers, counted steps included, which stay to be made up for."""
        return sum(
            layer.bytes_of(self.decode_limit(index).kept_after(layer.kept_tokens, layer.seen_tokens, self._steps))
            for index, layer in enumerate(self._layers)
        )

    def reserve(self, steps: int) -> int:
        """Make room in every layer for so many further tokens.

        Returns:
            Tokens for which there is room; more than were asked for where buffers are as large or limits are fixed.
        """
        self.version, left = self.version + 1, MANY_STEPS
        for index, layer in enumerate(self.layers):
            limit = self.decode_limit(index)
            layer.reserve(limit, steps)
            left = min(left, layer.steps_left(limit, left))
        return left

    def count_step(self) -> None:
        """Count a token as read that a step on the device has stored by itself (`prefixkv.kernels.next_slots`)."""
        self._steps += 1

    def discount_steps(self, steps: int) -> None:
        """Take back counted steps whose tokens nobody asked for, in a row that only tells its usage from now on."""
        self._steps = max(0, self._steps - steps)

    def update(self, keys: torch.Tensor, values: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in one layer's new keys and values, and leave word for the attention call on what is returned.

        Args:
            keys: (1, kv_heads, new_len, head_dim), after RoPE.
            values: same shape.
            place: number among all decoder layers.

        Returns:
            Keys and values to attend to, (1, kv_heads, entries, head_dim).
        """
        again = HandOff() if self.geometry.bare_layers else None
        if place in self.windows:
            keys, values = update_window(self.windows[place], keys, values)
            hand_off.leave(keys, HandOff(again=again))
            return keys, values
        index, new_len = self._numbers[place], keys.shape[2]
        layer = self.layers[index]
        if layer.seen_tokens and new_len == 1 and layer.arriving is None:
            keys, values = self.store_step(keys, values, place).entries
            hand_off.leave(keys, HandOff(again=again))
            return keys, values
        if self.prefix is not None:
            if index == 0:
                self._marks = self.prefix.marks_before(self._marks, new_len)
            keys, values = self.prefix.before(index, keys, values)
        if index == 0:
            self.chunk = Chunk(self, keys, self._marks)
            self._marks = TextMarks(None, 0)
        keys, values = layer.arrive(keys, values)
        may_round = not self.keeps_all
        sums_all = may_round and self.prefix is None and self.method.queries == "summed"
        hand_off.leave(keys, HandOff(partial(self._compact, index), None, sums_all, may_round, again=again))
        return keys, values

    def store_step(self, keys: torch.Tensor, values: torch.Tensor, place: int) -> CompressedLayer:
        """Store one layer's entry of one token behind what the row has read; `CompressedLayer.write` has its shapes."""
        index = self._numbers[place]
        layer = self.layers[index]
        if index == 0:
            self.check_step()
            self.version += 1
        layer.write(keys, values, self.decode_limit(index))
        return layer

    def mark(self, marks: TextMarks) -> None:
        """Say which tokens of the next chunk are text; where nobody says, all are."""
        self._marks = marks

    def end_pass(self) -> None:
        """The forward pass that read a chunk is queued: settle what each layer holds from now on."""
        is_due, self.is_in_pass, self._is_due = self._is_due, False, False
        if is_due:
            self._finish()

    def decode_limit(self, index: int) -> DecodeLimit:
        """What a layer may hold while tokens are read one by one."""
        layer, fine = self._layers[index], self._layers[index].fine.kept_tokens
        if self.keeps_all:
            return DecodeLimit()
        if self.budget.is_hard_limit:
            return DecodeLimit(self.limits[index])
        if self.method.rounding == "exact":
            return DecodeLimit.of_anchor(layer.anchor_kept, layer.anchor_seen, self.capacity.beside(fine, self.bits))
        if self.keep_fractions:
            return DecodeLimit.of_share(self.keep_fractions[index], fine)
        # It deletes one after a step that left the layer one entry or more above its share.
        return DecodeLimit(None, layer.anchor_kept + fine, layer.anchor_seen, True, fine)

    def check_step(self) -> None:
        """Refuse a further token where the method keeps everything and the budget is used up.

        Raises:
            BudgetTooSmallError: it is.
        """
        self.capacity.check_full(self.geometry.layers * (self.seen_tokens + 1))

    def _compact(self, index: int, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> None:
        assert self.chunk is not None
        if self.prefix is not None:
            queries = self.prefix.queries_before(index, queries)
        self.chunk.compact(index, queries, scale, keys)
        is_last = index == self.geometry.layers - 1
        self._is_due = is_last and self.is_in_pass
        if is_last and not self._is_due:
            self._finish()

    def _finish(self) -> None:
        """All layers have read the chunk: settle what each may hold, room that a hard limit leaves included."""
        assert self.chunk is not None
        self.chunk.finish()
        self.chunk = self.prefix = None
        self.version += 1
        self.limits = self.capacity.limits([layer.counts for layer in self._layers], self.seen_tokens, self.bits)
