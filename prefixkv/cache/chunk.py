"""A chunk of several tokens while the model reads it: a prompt, or a later turn. What stays of it is settled here.

Layers are compacted one by one: when a layer's attention is done its importance is scored, and where its share is known
it is copied to a buffer of its exact size. Else it is held as it arrived, the shares of the layers read so far are
found, and layers are cut where their share fell (it never rises). Since the shares of `prefix` can only fall with every
further layer, the result is that of a search over all layers at once, while one layer is there whole; or a few
(`prefixkv.cache.compaction`), where a share of the tokens is searched for, or all of a chunk that is small beside a
GPU's memory.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from prefixkv.cache.compaction import AHEAD, Compaction, small_bytes
from prefixkv.cache.scoring import KnownScores, entry_marks, score
from prefixkv.kernels.dispatch import gather
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.precedence import with_newest
from prefixkv.policy.look_ahead import PlacedQueries
from prefixkv.policy.method_calls import choose
from prefixkv.policy.precision import FINE_BITS
from prefixkv.policy.rounding_trial import TRIED_LAYERS, RoundingTrial
from prefixkv.policy.shares import LayerShares
from prefixkv.policy.text_marks import TextMarks

if TYPE_CHECKING:
    from prefixkv.cache.row import CacheRow


class Chunk:
    """One chunk of one row.

    Attributes:
        known_scores: of the layer that attends next, for `prefixkv.cache.scoring.score`; None where nobody shares them.
    """

    def __init__(self, row: CacheRow, keys: torch.Tensor, marks: TextMarks) -> None:
        """Begin: choose the precision of storage, and see whether everything fits.

        Where nobody has said what the model loses by few bits, these are tried on the first layers, which are held
        until then.

        Args:
            row: whose chunk it is; its layers have not read it yet.
            keys: (1, kv_heads, chunk_len, head_dim), of the first layer.
            marks: which of the chunk's tokens are text.
        """
        self.known_scores: KnownScores | None = None
        self._row, self._marks, self._len, self._device = row, marks, keys.shape[2], keys.device
        self._seen = row.seen_tokens + self._len
        row.capacity.check_floor(seen_tokens=self._seen)
        self._shares = LayerShares(row.method, row.geometry.layers, row.keep_fractions, row.budget.is_hard_limit)
        row.is_text = marks.behind(row.is_text, 1, row.seen_tokens, self._len)
        self._is_evicted = any(layer.stored_tokens < layer.seen_tokens for layer in row.layers)
        self._before = row.layers[0].bits
        self._fits, self._newest = False, 0
        self._compaction: Compaction | None = None
        self._trial: RoundingTrial | None = None
        self._tried: list[tuple[int, torch.Tensor | None]] = []
        if row.capacity.is_unmeasured and not row.capacity.holds_all(self._seen, FINE_BITS):
            self._trial = RoundingTrial(self._tried_layers)
        else:
            self._settle()
        self._placed: PlacedQueries | None = None
        if row.look_ahead is not None and row.look_ahead.is_recorded and not (row.keeps_all or row.method.moves):
            self._placed = PlacedQueries(row.look_ahead, self._behind)

    @property
    def _behind(self) -> int:
        """The position of the token behind the chunk."""
        positions = self._row.next_positions
        return self._seen if positions is None else int(positions.max())

    @property
    def _tried_layers(self) -> int:
        """Layers that can be held for the trial: under a hard limit only one, unless the others have room for one."""
        row = self._row
        room = row.budget.room_bytes(row.geometry, self._seen)
        has_room = not row.budget.is_hard_limit or room >= self._seen * row.geometry.entry_bytes
        return min(TRIED_LAYERS, row.geometry.layers) if has_room else 1

    def _settle(self) -> None:
        """Choose the precision of storage, now that it is known what few bits lose."""
        row = self._row
        was_changed = self._is_evicted or self._before is not None
        row.bits, row.fine = row.capacity.precision(self._seen, self._before, was_changed, row.fine > 0)
        # What is stored comes to the new precision before the first layer is compacted.
        for layer in row.layers:
            layer.fine_wanted = row.fine
            if row.bits is not None and layer.keys is not None and layer.bits != row.bits and not row.fine:
                layer.repack(row.bits)
        self._fits = not self._is_evicted and row.capacity.holds_all(self._seen, row.bits, row.fine)
        if not self._fits:
            even = row.capacity.total(self._seen, row.bits, row.fine) // row.geometry.layers
            self._newest = 0 if row.fine else min(self._len, row.method.newest_len(even))
        self._compaction = None if self._shares.is_known else self._new_compaction()

    def _new_compaction(self) -> Compaction:
        # Later turns find layers that hold earlier entries, for which room is reserved: there nothing waits.
        row = self._row
        is_first = self._device.type == "cuda" and self._seen == self._len and not row.budget.is_hard_limit
        ahead, small = (AHEAD, small_bytes(self._device) // row.beside) if is_first else (0, 0)
        parts = row.layers, self._shares, row.capacity
        # A method of this chunk would be a reference in a circle: its tensors would wait for Python's collector.
        text_tokens = partial(_text_tokens, row, self._seen)
        return Compaction(*parts, self._seen, row.bits, row.fine, text_tokens, ahead, small)

    def compact(self, index: int, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> None:
        """Choose what stays of the layer that has just attended, and of the earlier ones.

        Args:
            index: of the layer, among the compressed ones.
            queries: (1, query_heads, chunk_len, head_dim).
            scale: factor on the dot products.
            keys: that the queries attended to, where these are not those that are stored.
        """
        row = self._row
        layer = row.layers[index]
        assert layer.arriving is not None
        entries = layer.arriving[0].shape[2]
        if row.keeps_all:
            row.capacity.check_full(sum(other.stored_tokens for other in row.layers if other is not layer) + entries)
            layer.keep(None, queries.new_zeros(1, 1, entries, dtype=torch.float32), self._len, row.bits)
        else:
            evidence = self.evidence(index, queries, scale, keys)
            importance, pictures = score(row.method, layer, evidence, self.known_scores)
            importance = with_newest(importance, self._newest)
            if self._trial is not None:
                layer.hold(importance, self._len)
                self._tried.append((index, pictures))
                self._trial.add(evidence)
                if self._trial.is_done:
                    self._end_trial(self._trial)
            elif self._fits or self._compaction is None:
                layer.keep(choose(row.method, importance, self._count(index, entries)), importance, self._len, row.bits)
            else:
                layer.hold(importance, self._len)
                self._compaction.take_in(index, pictures)

    def _count(self, index: int, entries: int) -> int:
        """Entries that stay of those of a layer whose share is known, or all where everything fits."""
        total = self._row.capacity.total(self._seen, self._row.bits, self._row.fine)
        return entries if self._fits else min(entries, self._shares.known(total, self._seen)[index])

    def _end_trial(self, trial: RoundingTrial) -> None:
        """Settle the precision, and treat the layers that were held as they would have been."""
        row, self._trial = self._row, None
        row.capacity = replace(row.capacity, losses=trial.losses())
        self._settle()
        for index, pictures in self._tried:
            layer = row.layers[index]
            assert layer.importance is not None
            layer.importance = with_newest(layer.importance, self._newest)
            if self._fits or self._compaction is None:
                count = self._count(index, layer.kept_tokens)
                move, packs = layer.shrunk(count, row.bits, choose(row.method, layer.importance, count))
                layer.fill(gather([move], packs)[0])
            else:
                self._compaction.take_in(index, pictures, is_last=index == self._tried[-1][0])

    def evidence(self, index: int, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> Evidence:
        """What a layer's entries are scored by; as for `compact`."""
        row = self._row
        layer = row.layers[index]
        is_text = entry_marks(layer, row.is_text) if row.method.keeps_text else None
        ahead = None if self._placed is None else self._placed[index].to(queries.device)
        rotation = gathered = None
        if row.look_ahead is not None and row.method.moves:
            rotation, gathered = row.look_ahead.rotation, row.look_ahead.gathered(index, queries, self._behind)
        elif ahead is None and row.look_ahead is not None:
            ahead = row.look_ahead.own(queries)
        tail = self._len if self._marks.is_text is None else self._marks.tail
        assert layer.arriving is not None
        # Of latents the first part is what values are made of.
        values = layer.arriving[0 if row.geometry.is_latent else 1]
        keys = layer.arriving[0] if keys is None else keys
        return Evidence(queries, keys, scale, is_text, tail, ahead, values, gathered, rotation)

    def finish(self) -> None:
        """All layers have read the chunk: cut them to what they hold from now on."""
        if self._compaction is not None and not self._fits and not self._row.keeps_all:
            self._compaction.finish()
        for layer in self._row.layers:
            layer.open_queue(*self._row.method.evictable(layer.kept_tokens, self._newest))


def _text_tokens(row: CacheRow, seen_tokens: int) -> int:
    return seen_tokens if row.is_text is None else int(row.is_text.sum(dim=1).max())
