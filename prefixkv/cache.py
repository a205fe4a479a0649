"""The compressed cache: takes in every layer's keys and values and keeps the whole within its budget.

Works with stock `generate`: it tells transformers how many tokens were read, so positions are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from transformers.cache_utils import Cache

from prefixkv import allocation, attention
from prefixkv.budget import Budget
from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv.geometry import KVGeometry
from prefixkv.importance import SCORERS
from prefixkv.layer import CompressedLayer
from prefixkv.methods import DEFAULT_METHOD, Method, get_method
from prefixkv.selection import cumulative_importance, select
from prefixkv.usage import CacheUsage, LayerUsage

SLACK = 8
"""A budget that is a fraction may be exceeded by one part in so many between two layers of one forward pass, which
saves most of the copies of shrinking earlier layers; after the last layer it is exact. A hard limit has no slack."""


class PrefixKVCache(Cache):
    """A KV cache that holds every layer to its share of a budget.

    Layers are compacted one by one while the prompt is read: when a layer's attention is done its importance is scored,
    the shares of all layers read so far are found, earlier layers are shrunk where their share fell (it never rises),
    and the layer is copied to a buffer of its exact size. Since the shares of `prefix` can only fall with every further
    layer, the result is that of a search over all layers at once, while only one layer is ever stored whole.

    A hard limit bounds the layers' buffers together; beside them one layer at a time exists as a working copy.
    """

    layers: list[CompressedLayer]  # type: ignore[assignment]

    def __init__(
        self,
        geometry: KVGeometry,
        budget: str | float | Budget = "20%",
        method: str | Method = DEFAULT_METHOD,
        keep_fractions: Sequence[float] | None = None,
    ):
        """Make an empty cache.

        Args:
            geometry: the model's KV shape.
            budget: what to keep, as `Budget.parse` reads it.
            method: name of a method.
            keep_fractions: proportions of the layers' shares, from a configuration; else the method's allocator finds
                them for every prompt.

        Raises:
            OptionError: unknown method or budget.
            BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        """
        super().__init__(layers=[CompressedLayer() for _ in range(geometry.layers)])
        self.geometry, self.budget, self.method = geometry, Budget.parse(budget), get_method(method)
        self.budget.check_floor(geometry, self.method.floor_tokens)
        self._keep_fractions = keep_fractions
        self._batch = 1
        self._curves: list[list[float]] = []
        self._limits: list[int] = []

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: method `full`, or a budget of 100 %."""
        return self.method.keeps_all or (self.budget.kind == "fraction" and self.budget.amount == 1)

    @property
    def seen_tokens(self) -> int:
        """Tokens that the cache has read."""
        return self.layers[0].seen_tokens

    def kept_positions(self, layer: int) -> torch.Tensor:
        """Original positions of a layer's entries, (batch, heads, kept_tokens), int64, in the order of the buffer."""
        stored = self.layers[layer]
        if stored.positions is None:
            return torch.empty(self._batch, 1, 0, dtype=torch.int64)
        return stored.positions[..., : stored.kept_tokens]

    def usage(self) -> CacheUsage:
        """What is stored now, measured on the tensors that exist, against the uncompressed cache of the same tokens."""
        layers = tuple(
            LayerUsage(index, layer.seen_tokens, layer.kept_tokens, layer.kept_bytes)
            for index, layer in enumerate(self.layers)
        )
        full = sum(layer.seen_tokens * self.geometry.entry_bytes * self._batch for layer in layers)
        kept = sum(layer.bytes for layer in layers)
        allocated = sum(layer.buffer_bytes for layer in self.layers)
        return CacheUsage(full, kept, allocated, kept / full if full else 1.0, layers)

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        for layer in self.layers:
            layer.reset()

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
        layer = self.layers[layer_idx]
        if layer.seen_tokens and key_states.shape[2] == 1 and layer.arriving is None:
            keys, values = layer.write(key_states, value_states, self._decode_limit(layer_idx))
            attention.hand_off(keys, None)
        else:
            if layer_idx == 0:
                self._begin_chunk(key_states)
            keys, values = layer.arrive(key_states, value_states)
            attention.hand_off(keys, partial(self._compact, layer_idx, key_states.shape[2]))
        return keys, values

    def _begin_chunk(self, keys: torch.Tensor) -> None:
        self._batch = keys.shape[0]
        self._curves = []
        self.budget.check_floor(self.geometry, self.method.floor_tokens, self._batch)

    def _total(self, seen_tokens: int) -> int:
        """Entries that all layers together may hold once `seen_tokens` are read."""
        total = self.budget.entries(self.geometry, seen_tokens, self._batch)
        if not self.budget.is_hard_limit:
            total = max(total, self.geometry.layers * min(seen_tokens, self.method.floor_tokens))
        return min(total, self.geometry.layers * seen_tokens)

    def _compact(self, index: int, chunk_len: int, queries: torch.Tensor, scale: float) -> None:
        """Choose what stays of the layer that has just attended, and of the earlier ones."""
        layer = self.layers[index]
        assert layer.arriving is not None
        keys = layer.arriving[0]
        entries, seen = keys.shape[2], layer.seen_tokens + chunk_len
        others = sum(other.kept_tokens for other in self.layers if other is not layer)
        total = self._total(seen)
        fits = self.keeps_all or (
            all(other.kept_tokens == other.seen_tokens for other in self.layers)
            and self.geometry.layers * seen <= self.budget.entries(self.geometry, seen, self._batch)
        )
        importance = self._importance(layer, queries, keys, scale) if not self.keeps_all else None
        if fits or importance is None:
            if importance is None:
                importance = queries.new_zeros(self._batch, 1, entries, dtype=torch.float32)
            self._check_full(others + entries)
            everything = torch.arange(entries, device=keys.device).expand(*importance.shape[:2], -1)
            layer.keep(everything, importance, chunk_len)
        else:
            counts = self._allocate(index, seen, total, importance)
            if index == self.geometry.layers - 1 or others + counts[-1] > total + self._slack(total):
                for earlier in range(index):
                    self._shrink(earlier, counts[earlier])
            layer.keep(self._select(importance, counts[-1]), importance, chunk_len)
        layer.open_window(self.method.window_start(layer.kept_tokens))
        if index == self.geometry.layers - 1:
            self._fix_limits(fits)

    def _importance(
        self, layer: CompressedLayer, queries: torch.Tensor, keys: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """(batch, heads, entries), float32: what the chunk's queries say, on top of what stored entries had before."""
        assert self.method.scorer is not None
        scores = SCORERS[self.method.scorer](queries, keys, scale)
        if not self.method.per_head:
            scores = scores.mean(dim=1, keepdim=True)
        if layer.importance is not None and self.method.scorer == "accumulated":
            scores[..., : layer.kept_tokens] += layer.importance[..., : layer.kept_tokens]
        return scores

    def _slack(self, total: int) -> int:
        return 0 if self.budget.is_hard_limit else total // SLACK

    def _allocate(self, index: int, seen: int, total: int, importance: torch.Tensor) -> list[int]:
        """Entries for layers 0 .. index, so that the later layers keep what they store, or their floor, at least."""
        layers, floor = self.geometry.layers, min(self.method.floor_tokens, seen)
        stored = [layer.kept_tokens for layer in self.layers]
        ceilings = [*stored[:index], importance.shape[-1]]
        known = None
        if self._keep_fractions is not None:
            known = allocation.proportional(self._keep_fractions, total, floor, seen)
        elif self.method.allocator == "uniform":
            known = allocation.uniform(total, layers)
        if known is not None:
            return [min(ceiling, share) for ceiling, share in zip(ceilings, known[: index + 1], strict=True)]
        self._curves.append(cumulative_importance(importance).tolist())
        reserved = sum(max(floor, kept) for kept in stored[index + 1 :])
        curves = [curve[:ceiling] for curve, ceiling in zip(self._curves, ceilings, strict=True)]
        return allocation.prefix(curves, max(total - reserved, floor * (index + 1)), floor)

    def _shrink(self, index: int, count: int) -> None:
        layer = self.layers[index]
        if count >= layer.kept_tokens:
            return
        assert layer.importance is not None
        layer.shrink(self._select(layer.importance[..., : layer.kept_tokens], count))
        layer.open_window(self.method.window_start(count))

    def _select(self, importance: torch.Tensor, count: int) -> torch.Tensor:
        return select(importance, count, self.method.sink_tokens, self.method.recent_len(count))

    def _fix_limits(self, fits: bool) -> None:
        """All layers have read the chunk: under a hard limit, what each holds from now on is settled."""
        if self.budget.is_hard_limit and fits:
            total = self.budget.entries(self.geometry, self.seen_tokens, self._batch)
            self._limits = allocation.uniform(total, self.geometry.layers)
        else:
            self._limits = [layer.kept_tokens for layer in self.layers]

    def _decode_limit(self, index: int) -> int:
        """Entries that a layer may hold when it has read one more token."""
        layer = self.layers[index]
        if self.keeps_all:
            if index == 0:
                self._check_full(self.geometry.layers * (layer.seen_tokens + 1))
            return layer.seen_tokens + 1
        if self.budget.is_hard_limit:
            return self._limits[index]
        generated = layer.seen_tokens + 1 - layer.anchor_seen
        return layer.anchor_kept + generated * layer.anchor_kept // layer.anchor_seen

    def _check_full(self, entries: int) -> None:
        """A method that keeps everything cannot honour a hard limit that the text has outgrown."""
        if self.budget.is_hard_limit and entries > self.budget.entries(self.geometry, 0, self._batch):
            raise BudgetTooSmallError(
                f"method {self.method.name!r} keeps everything, and that is more than budget {self.budget.text!r} "
                "allows: choose another method or a larger budget"
            )

    def crop(self, *args: object, **kwargs: object) -> None:
        """Refused: evicted entries cannot be brought back."""
        raise PrefixKVError("a compressed cache cannot be cropped: assisted decoding is not supported, turn it off")

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Refused."""
        raise PrefixKVError("beam search on a compressed cache is not supported: set num_beams=1")
