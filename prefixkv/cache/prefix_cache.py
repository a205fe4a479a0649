"""The compressed cache: takes in every layer's keys and values and keeps the whole within its budget.

Works with stock `generate`: it tells transformers how many tokens were read, so positions are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from prefixkv.cache import attention
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.compaction import AHEAD, Compaction, small_bytes
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.passes import after_pass
from prefixkv.cache.scoring import entry_marks, score
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.cache.windows import WindowedCache
from prefixkv.errors import BudgetTooSmallError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy import allocation
from prefixkv.policy.budget import Budget
from prefixkv.policy.importance import Evidence
from prefixkv.policy.look_ahead import LookAhead, PlacedQueries
from prefixkv.policy.methods import DEFAULT_METHOD, Method, get_method
from prefixkv.policy.ranking import choose
from prefixkv.policy.shares import LayerShares
from prefixkv.policy.text_marks import TextMarks


class PrefixKVCache(WindowedCache):
    """A KV cache that holds every layer to its share of a budget.

    Layers are compacted one by one while the prompt is read: when a layer's attention is done its importance is scored,
    and where its share is known it is copied to a buffer of its exact size. Else it is held as it arrived, the shares
    of the layers read so far are found, and layers are cut where their share fell (it never rises). Since the shares of
    `prefix` can only fall with every further layer, the result is that of a search over all layers at once, while one
    layer is there whole; or a few (`prefixkv.cache.compaction`), where a share of the tokens is searched for,
    or all of a chunk that is small beside a GPU's memory.

    A hard limit bounds the layers' buffers together; beside them one layer at a time exists as a working copy. Methods
    whose shares are known only when all layers have read (`Method.waits`) exceed it until then.

    A method that packs stores entries as they are while the budget holds them all, and from then on in 8, 4 or 2 bits,
    so that the same bytes hold more of them.

    Attributes:
        geometry: the model's KV shape.
        budget: what may be stored.
        method: how it is chosen.
        layers: the compressed layers; those that attend to a sliding window are in `windows`.
        keep_fractions: proportions of the layers' shares from a configuration; None where the method finds them.
        look_ahead: a profile's queries, where the method uses them.
        batch: rows of what was read last.
        bits: in which elements are stored; None for the model's own precision.
        limits: entries that each layer may hold under a hard limit; empty before the first chunk.
        is_text: (batch, tokens), bool: which tokens are text, as far as somebody said; None where all are.
    """

    layers: list[CompressedLayer]  # type: ignore[assignment]

    def __init__(
        self,
        geometry: KVGeometry,
        budget: str | float | Budget = "20%",
        method: str | Method = DEFAULT_METHOD,
        keep_fractions: Sequence[float] | None = None,
        look_ahead: LookAhead | None = None,
    ):
        """Make an empty cache.

        Args:
            geometry: the model's KV shape.
            budget: what to keep, as `Budget.parse` reads it.
            method: name of a method.
            keep_fractions: proportions of the layers' shares, from a configuration; else the method's allocator finds
                them for every prompt.
            look_ahead: a profile's queries, which make `guided` what it is; other methods do not use them.

        Raises:
            OptionError: unknown method or budget.
            BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        """
        dtype = getattr(torch, geometry.dtype)
        super().__init__(geometry, [CompressedLayer(geometry.head_dim, dtype) for _ in range(geometry.layers)])
        self.geometry, self.budget, self.method = geometry, Budget.parse(budget), get_method(method)
        self.keep_fractions = keep_fractions
        self.look_ahead = look_ahead if self.method.is_guided else None
        losses = {} if self.look_ahead is None else self.look_ahead.losses
        self._capacity = Capacity(geometry, self.budget, self.method, losses)
        self.batch = 1
        self.bits: int | None = None
        self._placed: PlacedQueries | None = None
        self._shares = LayerShares(self.method, geometry.layers, keep_fractions, self.budget.is_hard_limit)
        self._compaction: Compaction | None = None
        self._fits = False
        self.limits: list[int] = []
        self._marks = TextMarks(None, 0)
        self.is_text: torch.Tensor | None = None

    def emptied(self) -> PrefixKVCache:
        """An empty cache of the same kind: same shape, budget, method, shares and look-ahead queries."""
        return type(self)(self.geometry, self.budget, self.method, self.keep_fractions, look_ahead=self.look_ahead)

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: method `full`, or a budget of 100 %."""
        return self._capacity.keeps_all

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of a decoder layer's mask, which a model asks for first; refused if none is installed."""
        attention.require_installed()
        return super().get_mask_sizes(query_length, layer_idx)

    @property
    def seen_tokens(self) -> int:
        """Tokens that the cache has read."""
        return self.layers[0].seen_tokens

    def kept_positions(self, layer: int) -> torch.Tensor:
        """Original positions of a layer's entries, (batch, heads, kept_tokens), int64, in the order of the buffer."""
        stored = self.layers[layer]
        if stored.positions is None:
            return torch.empty(self.batch, 1, 0, dtype=torch.int64)
        return stored.positions[..., : stored.kept_tokens]

    def usage(self) -> CacheUsage:
        """What is stored now, measured on the tensors that exist, against the uncompressed cache of the same tokens."""
        layers = tuple(
            LayerUsage(index, layer.seen_tokens, layer.kept_tokens, layer.kept_bytes)
            for index, layer in enumerate(self.layers)
        )
        full = sum(layer.seen_tokens * self.geometry.entry_bytes * self.batch for layer in layers)
        kept, allocated = sum(layer.bytes for layer in layers), sum(layer.buffer_bytes for layer in self.layers)
        return CacheUsage(full, kept, allocated, kept / full if full else 1.0, layers)

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        super().reset()
        self._marks, self.is_text = TextMarks(None, 0), None

    @torch.compiler.disable
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in one layer's new keys and values; called by the model.

        Args:
            key_states: (batch, kv_heads, new_len, head_dim), after RoPE.
            value_states: same shape.
            layer_idx: the layer.
            *args: ignored.
            **kwargs: ignored.

        Returns:
            Keys and values to attend to, (batch, kv_heads, entries, head_dim).
        """
        if layer_idx in self.windows:
            keys, values = self.update_window(key_states, value_states, layer_idx)
            attention.hand_off(keys, None)
            return keys, values
        layer_idx = self.number(layer_idx)
        layer = self.layers[layer_idx]
        if layer.seen_tokens and key_states.shape[2] == 1 and layer.arriving is None:
            keys, values = layer.write(
                key_states, value_states, self.decode_limit(layer_idx), self.budget.is_hard_limit
            )
            attention.hand_off(keys, None)
        else:
            if layer_idx == 0:
                self._begin_chunk(key_states)
            keys, values = layer.arrive(key_states, value_states)
            scorer = self.method.scorer
            sums_all = not self.keeps_all and (
                scorer == "accumulated" or (scorer == "guided" and self.look_ahead is None)
            )
            attention.hand_off(keys, partial(self._compact, layer_idx, key_states.shape[2]), sums_all=sums_all)
        return keys, values

    def take_rows(self, others: Sequence[PrefixKVCache]) -> None:
        """Take over the rows of caches that have read texts of one length, layer by layer: little is there twice."""
        for index, layer in enumerate(self.layers):
            layer.take_rows([other.layers[index] for other in others])
        self.batch += sum(other.batch for other in others)

    def mark(self, marks: TextMarks) -> None:
        """Say which tokens of the next chunk are text; where nobody says, all are."""
        self._marks = marks

    def _begin_chunk(self, keys: torch.Tensor) -> None:
        self.batch, chunk_len, seen = keys.shape[0], keys.shape[2], self.seen_tokens
        self.budget.check_floor(self.geometry, self.method.floor_tokens, self.batch)
        self._shares = LayerShares(self.method, self.geometry.layers, self.keep_fractions, self.budget.is_hard_limit)
        self.is_text = self._marks.behind(self.is_text, self.batch, seen, chunk_len)
        self._settle_bits(seen + chunk_len)
        self._fits = not self._is_evicted and self._capacity.holds_all(seen + chunk_len, self.batch)
        self._compaction = None if self._shares.is_known else self._new_compaction(keys, seen + chunk_len)
        if self.look_ahead is not None and not self.keeps_all:
            behind = seen + chunk_len if self.next_positions is None else int(self.next_positions.max())
            self._placed = PlacedQueries(self.look_ahead, behind)

    def _settle_bits(self, seen_tokens: int) -> None:
        """Choose the precision of storage, and bring what is stored to it before the first layer is compacted."""
        before = self.layers[0].bits
        self.bits = self._capacity.bits(seen_tokens, self.batch, before, self._is_evicted)
        for layer in self.layers:
            if self.bits is not None and layer.kept_tokens and layer.bits != self.bits:
                layer.repack(self.bits)

    @property
    def _is_evicted(self) -> bool:
        return any(layer.kept_tokens < layer.seen_tokens or layer.bits is not None for layer in self.layers)

    def _new_compaction(self, keys: torch.Tensor, seen_tokens: int) -> Compaction:
        # Later turns find layers that hold earlier entries, for which room is reserved: there nothing waits.
        is_first = keys.is_cuda and seen_tokens == keys.shape[2] and not self.budget.is_hard_limit
        ahead, small = (AHEAD, small_bytes(keys.device)) if is_first else (0, 0)
        parts = self.layers, self._shares, self._capacity
        return Compaction(*parts, seen_tokens, self.batch, self.bits, self._text_tokens, ahead, small)

    def _compact(self, index: int, chunk_len: int, queries: torch.Tensor, scale: float) -> None:
        """Choose what stays of the layer that has just attended, and of the earlier ones."""
        layer, last = self.layers[index], self.geometry.layers - 1
        assert layer.arriving is not None
        entries, seen = layer.arriving[0].shape[2], layer.seen_tokens + chunk_len
        if self.keeps_all:
            self._check_full(sum(other.kept_tokens for other in self.layers if other is not layer) + entries)
            layer.keep(None, queries.new_zeros(self.batch, 1, entries, dtype=torch.float32), chunk_len)
        else:
            importance, pictures = score(self.method, layer, self._evidence(index, chunk_len, queries, scale))
            if self._fits or self._compaction is None:
                total = self._capacity.total(seen, self.batch, self.bits)
                count = entries if self._fits else min(entries, self._shares.known(total, seen)[index])
                layer.keep(choose(self.method, importance, count), importance, chunk_len, self.bits)
            else:
                layer.hold(importance, chunk_len)
                self._compaction.take_in(index, pictures)
        if index == last:
            after_pass(self._finish)

    def _evidence(self, index: int, chunk_len: int, queries: torch.Tensor, scale: float) -> Evidence:
        layer = self.layers[index]
        is_text = entry_marks(layer, self.is_text) if self.method.keeps_text else None
        placed = None if self._placed is None else self._placed[index].to(queries.device)
        tail = chunk_len if self._marks.is_text is None else self._marks.tail
        assert layer.arriving is not None
        return Evidence(queries, layer.arriving[0], scale, is_text, tail, placed)

    def _text_tokens(self) -> int:
        return self.seen_tokens if self.is_text is None else int(self.is_text.sum(dim=1).max())

    def _finish(self) -> None:
        """All layers have read the chunk: what each holds from now on is settled."""
        if self._compaction is not None and not self._fits and not self.keeps_all:
            self._compaction.finish()
        for layer in self.layers:
            layer.open_window(self.method.evictable(layer.kept_tokens))
        self._fix_limits()
        self._marks = TextMarks(None, 0)
        self._placed = self._compaction = None

    def _fix_limits(self) -> None:
        if self.budget.is_hard_limit and all(layer.kept_tokens == layer.seen_tokens for layer in self.layers):
            self.limits = allocation.uniform(
                self._capacity.stored(self.seen_tokens, self.batch, self.bits), self.geometry.layers
            )
        else:
            self.limits = [layer.kept_tokens for layer in self.layers]

    def decode_limit(self, index: int) -> int:
        """Entries that a layer may hold when it has read one more token."""
        layer = self.layers[index]
        if self.keeps_all:
            if index == 0:
                self._check_full(self.geometry.layers * (layer.seen_tokens + 1))
            return layer.seen_tokens + 1
        if self.budget.is_hard_limit:
            return self.limits[index]
        if self.method.allocator == "release":
            # It deletes one entry after a step that left the layer one entry or more above its share.
            share = self.keep_fractions[index] if self.keep_fractions else layer.anchor_kept / layer.anchor_seen
            return layer.kept_tokens + (int(layer.kept_tokens - layer.seen_tokens * share) <= 0)
        generated = layer.seen_tokens + 1 - layer.anchor_seen
        return layer.anchor_kept + generated * layer.anchor_kept // layer.anchor_seen

    def _check_full(self, entries: int) -> None:
        """A method that keeps everything cannot honour a hard limit that the text has outgrown."""
        if self.budget.is_hard_limit and entries > self._capacity.unpacked(0, self.batch):
            raise BudgetTooSmallError(
                f"method {self.method.name!r} keeps everything, and that is more than budget {self.budget.text!r} "
                "allows: choose another method or a larger budget"
            )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Where the model believes to be: the tokens read, or what the first layer keeps of them."""
        if self.method.positions == "compressed" and layer_idx not in self.windows:
            return self.layers[0].kept_tokens
        return super().get_seq_length(layer_idx)
