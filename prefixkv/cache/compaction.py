"""Compaction: when the layers of one chunk are cut to their shares, where these are searched for.

Knows nothing of attention or of how importance is scored; the shares themselves are found elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import torch

from prefixkv.cache.capacity import Capacity
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.side_stream import SideStreams
from prefixkv.kernels.dispatch import first_ranked, gather
from prefixkv.kernels.gathering import Move
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.method_calls import choose
from prefixkv.policy.precision import FINE_OF
from prefixkv.policy.ranking import rank
from prefixkv.policy.shares import LayerShares

SLACK = 2
"""A budget that is a fraction may be exceeded by one part in so many between two layers of one forward pass, which
saves most of the copies of cutting earlier layers; after the last layer it is exact. A hard limit has no slack."""
AHEAD = 1
"""Layers that a GPU holds beside the slack. There the host runs ahead: what is cut follows from the curves that have
come, so that it does not wait for the newest while the device has nothing to do, and the newest layers stay whole."""
SMALL = 128
"""A chunk whose layers take no more than one part in so many of a GPU's memory is cut once, when all have read it."""
ROOM = 2
"""Layers for which room is made at once."""
TOGETHER = 2
"""Whole layers in whose memory layers are cut together on a GPU; else it is one by one."""


class Compaction:
    """The layers of one chunk, each held whole as it arrived until its share is known well enough.

    The shares of the first layers can only fall with every further one. So a layer may be cut to its share among any
    number of first layers, and how often that is done, and when, does not change what is kept in the end.
    """

    def __init__(
        self,
        layers: Sequence[CompressedLayer],
        shares: LayerShares,
        capacity: Capacity,
        seen_tokens: int,
        bits: int | None,
        fine: int,
        text_tokens: Callable[[], int],
        ahead: int = 0,
        small_bytes: int = 0,
    ) -> None:
        """Begin a chunk.

        Args:
            layers: all compressed layers.
            shares: of this chunk.
            capacity: what fits.
            seen_tokens: tokens read when the chunk is.
            bits: in which an element is stored; None for the model's own precision.
            fine: entries that each layer puts into its fine run.
            text_tokens: says how many of the tokens read are text; asked once at most.
            ahead: layers that may be held whole beside the slack; without any, the newest curve is waited for.
            small_bytes: what all layers together may take for none of them to be cut before the last has read.
        """
        self._layers, self._shares, self._bits, self._ahead = layers, shares, bits, ahead
        self._side = SideStreams()
        self._seen_tokens, self._text_tokens = seen_tokens, text_tokens
        self._method = capacity.method
        self._is_hard_limit, self._waits = capacity.budget.is_hard_limit, capacity.method.waits
        self._whole_bytes = capacity.geometry.entry_bytes
        self._stored_bytes = EntrySize.of(capacity.geometry, bits).stored
        self._fine, self._fine_bytes = fine, EntrySize.of(capacity.geometry, FINE_OF.get(bits or 0, bits)).stored
        self._total = capacity.total(seen_tokens, bits, fine)
        most = self._total * self._stored_bytes + len(layers) * fine * (self._fine_bytes - self._stored_bytes)
        slack = most // SLACK + ahead * seen_tokens * self._stored_bytes
        self._most_bytes = most if self._is_hard_limit else most + slack
        self._is_small = len(layers) * seen_tokens * self._whole_bytes <= small_bytes
        # So many layers may be whole when the others are cut to the total.
        self._behind = slack // (seen_tokens * self._whole_bytes)

    def take_in(self, index: int, pictures: torch.Tensor | None, is_last: bool = True) -> None:
        """Count a layer that is held as read; cut what must be cut now.

        Args:
            index: of the layer.
            pictures: the importance of its picture entries together, one number; None without pictures.
            is_last: whether no later layer is held yet; only then is anything cut.
        """
        if pictures is not None:
            self._shares.add_pictures(pictures)
        if self._is_small:
            if index == len(self._layers) - 1:
                # Before the pass ends: a step of other rows that is queued there is not waited for with the curves.
                self._rank_all()
        else:
            layer = self._layers[index]
            # The device goes on with the model: ranks are not used before a layer is cut.
            with self._side.beside(layer.device):
                self._rank([layer])
            if is_last and index < len(self._layers) - 1 and not self._waits:
                self._advance(index)

    def _rank_all(self) -> None:
        for device, layers in groupby(self._layers, key=lambda layer: layer.device):
            with self._side.beside(device):
                self._rank(list(layers))

    def _rank(self, layers: Sequence[CompressedLayer]) -> None:
        """Rank the entries of layers of one device, which have read as much, by one sort."""
        scores = [layer.importance for layer in layers if layer.importance is not None]
        importance = scores[0] if len(scores) == 1 else torch.cat(scores)
        ranking = rank(importance, self._method.sink_tokens, self._method.recent_tokens)
        if self._shares.needs_curves:
            self._shares.add_curves(ranking.curves(len(layers)))
        if self._method.select is not None:
            return
        in_order = self._method.window == "least"
        orders, ranks = ranking.order.chunk(len(layers)), ranking.ranks.chunk(len(layers))
        for layer, order, places in zip(layers, orders, ranks, strict=True):
            layer.rank(order if in_order else None, None if in_order else places)

    def _advance(self, index: int) -> None:
        """Cut what must be cut now that a further layer, but the last, is held whole."""
        last = len(self._layers) - 1
        arrived = self._shares.fetch()
        whole = self._layers[index].stored_tokens * self._whole_bytes
        excess = sum(map(self._bytes, self._layers)) - self._most_bytes
        if index == last - 1 and not self._is_hard_limit:
            # The last layer is held beside all that it finds.
            excess += whole
        room = 0 if self._is_hard_limit else ROOM * whole
        oldest = max(1, index + 1 - self._behind) if self._ahead else index + 1
        for read in range(max(oldest, arrived), index + 2):
            if excess <= 0:
                break
            excess -= self._cut(self._counts(read, index), excess + room)

    def finish(self) -> None:
        """Cut every layer to what it keeps, now that all have read the chunk."""
        last = len(self._layers) - 1
        counts = self._counts(last + 1, last)
        cuts = [(layer, min(count, layer.stored_tokens)) for layer, count in zip(self._layers, counts, strict=True)]
        self._shrink(
            (layer, count) for layer, count in cuts if layer.arriving is not None or count < layer.stored_tokens
        )
        for layer in self._layers:
            layer.ranks = None

    def _bytes(self, layer: CompressedLayer) -> int:
        """What a layer stores or holds."""
        if layer.arriving is not None:
            return layer.kept_tokens * self._whole_bytes
        return layer.kept_tokens * self._stored_bytes + layer.fine.kept_tokens * self._fine_bytes

    def _packed_bytes(self, count: int) -> int:
        """What a layer stores that is cut to so many entries."""
        fine = min(self._fine, max(0, count - 1))
        return (count - fine) * self._stored_bytes + fine * self._fine_bytes

    def _cut(self, counts: Sequence[int], wanted: int) -> int:
        """Cut layers, those with most to lose first, until so many bytes are free or nothing is left to cut.

        Returns:
            The bytes that are free.
        """
        cuts = []
        for layer, count in zip(self._layers, counts, strict=False):
            count = min(count, layer.stored_tokens)
            cuts.append((self._bytes(layer) - self._packed_bytes(count), layer, count))
        # A hard limit is of what is stored: room comes first there, then a layer that was held.
        cuts.sort(key=lambda cut: (self._is_hard_limit and cut[1].arriving is not None, -cut[0]))
        chosen, freed = [], 0
        for gain, layer, count in cuts:
            if freed >= wanted:
                break
            if gain > 0:
                chosen.append((layer, count))
                freed += gain
        self._shrink(chosen)
        return freed

    def _shrink(self, cuts: Iterable[tuple[CompressedLayer, int]]) -> None:
        """Store what stays of layers, of a few together, so that little is there twice."""
        self._side.join()
        together: list[tuple[CompressedLayer, int]] = []
        most = TOGETHER * self._seen_tokens * self._whole_bytes if self._ahead else 0
        for layer, count in cuts:
            if together and together[0][0].device != layer.device:
                self._move(together)
                together = []
            together.append((layer, count))
            if sum(count for _, count in together) * self._stored_bytes >= most:
                self._move(together)
                together = []
        if together:
            self._move(together)

    def _move(self, cuts: Sequence[tuple[CompressedLayer, int]]) -> None:
        """Store what stays of layers of one device."""
        chosen = self._chosen(cuts)
        kinds: dict[tuple[Any, ...], list[tuple[CompressedLayer, Move]]] = defaultdict(list)
        for layer, count in cuts:
            move, packs = layer.shrunk(count, self._bits, chosen.get(id(layer)))
            kinds[packs, move.keys.dtype, move.indices is None, len(move.notes)].append((layer, move))
        for (packs, *_), moves in kinds.items():
            for (layer, _), moved in zip(moves, gather([move for _, move in moves], packs), strict=True):
                layer.fill(moved)

    def _chosen(self, cuts: Sequence[tuple[CompressedLayer, int]]) -> dict[int, torch.Tensor | None]:
        """Which entries stay, by the layer's id, where it is not the first of those that it has."""
        if self._method.select is not None:
            every = [(layer, count, layer.importance) for layer, count in cuts]
            return {id(each): choose(self._method, own, count) for each, count, own in every if own is not None}
        parts = [(layer, layer.in_buffer(count)) for layer, count in cuts]
        ranked = [(layer, count) for layer, count in parts if layer.ranks is not None and count < layer.kept_tokens]
        choices = first_ranked([layer.ranks for layer, _ in ranked if layer.ranks is not None], [c for _, c in ranked])
        return {id(layer): indices for (layer, _), indices in zip(ranked, choices, strict=True)}

    def _counts(self, read: int, index: int) -> list[int]:
        """Entries for the first `read` layers of those up to `index`; what later ones store is reserved for them."""
        stored = [layer.stored_tokens for layer in self._layers]
        later = [0] * (index + 1 - read) + stored[index + 1 :]
        text_tokens = self._text_tokens() if self._waits else self._seen_tokens
        return self._shares.counts(self._total, self._seen_tokens, stored[:read], later, text_tokens)


def small_bytes(device: torch.device) -> int:
    """Bytes that are little on a device: there are some only where cutting has a host to wait for."""
    return torch.cuda.get_device_properties(device).total_memory // SMALL if device.type == "cuda" else 0
