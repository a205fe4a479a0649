"""Steps on the CPU: the new entries of all rows are packed in one call, and a row's entries are unpacked by few."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import torch

from prefixkv.cache.fine_run import Run
from prefixkv.cache.row import CacheRow
from prefixkv.cache.stored_entries import packed_pair
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import turn, unpack_turned


class RowSteps:
    """Has rows attend in steps that read one token of each.

    A query loses nothing by being turned as packed vectors are: few queries are turned, and few outputs turned back,
    instead of all keys and values. Rows attend one after the other: bringing several together for one call, padded to
    the longest, costs more than the calls.
    """

    def __init__(self) -> None:
        """Begin without a working copy, which is then used again by all rows, layers and steps."""
        self._copy = torch.empty(0)

    def can_attend(self, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether `attend` takes these: a GPU has a captured step, and only float32 queries may be turned."""
        return key.device.type == "cpu" and key.dtype == torch.float32 and key.shape == value.shape

    def attend(
        self,
        rows: Sequence[CacheRow],
        place: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Have every row store its new entry in one layer, and attend to all entries that it has there.

        Args:
            rows: each has read a prompt.
            place: the layer, among all decoder layers; no window layer.
            query: (rows, query_heads, 1, head_dim), float32, after RoPE.
            key: (rows, kv_heads, 1, head_dim), likewise.
            value: same shape.
            scale: factor on the dot products.

        Returns:
            (rows, 1, query_heads, head_dim).
        """
        count, kv_heads, _, head_dim = key.shape
        stored: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {None: (key, value)}
        stored |= {bits: packed_pair(key, value, bits) for bits in {row.bits for row in rows} if bits is not None}
        # The heads of a group ask the same keys: they stand for several queries of one head.
        queries = query.reshape(count, kv_heads, -1, head_dim)
        outputs = []
        for index, row in enumerate(rows):
            here = slice(index, index + 1)
            keys, values = stored[row.bits]
            layer = row.store_step(keys[here], values[here], place)
            outputs.append(self._attend(layer.runs, queries[here], scale))
        output = torch.cat(outputs) if count > 1 else outputs[0]
        return output.view(query.shape).transpose(1, 2)

    def _attend(self, runs: Sequence[Run], queries: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend to all runs of one row, (1, kv_heads, group, head_dim)."""
        attention = torch.nn.functional.scaled_dot_product_attention
        keys, values, pair = runs[0]
        if pair is None:
            return attention(queries, keys, values, scale=scale)
        keys, values = self._unpack(runs, queries)
        return turn(attention(turn(queries), keys, values, scale=scale))

    def _unpack(self, runs: Sequence[Run], like: torch.Tensor) -> Sequence[torch.Tensor]:
        """Read packed runs into the working copy: neighbours in the same bits by one call.

        Args:
            runs: of one row.
            like: (1, kv_heads, any, head_dim), of the dtype that is wanted.

        Returns:
            Keys and values of all runs, (1, kv_heads, entries, head_dim), turned; views that the next call overwrites.
        """
        parts = [(keys, key_bits(pair)) for keys, _, pair in runs if pair is not None]
        parts += [(values, value_bits(pair)) for _, values, pair in runs if pair is not None]
        entries = sum(part.shape[2] for part, _ in parts)
        _, kv_heads, _, head_dim = like.shape
        if self._copy.numel() < (size := kv_heads * entries * head_dim):
            self._copy = like.new_empty(size)
        copy, start = self._copy[:size].view(1, kv_heads, entries, head_dim), 0
        for bits, neighbours in groupby(parts, key=itemgetter(1)):
            packed = torch.cat([part for part, _ in neighbours], dim=2)
            end = start + packed.shape[2]
            unpack_turned(packed, bits, copy.dtype, copy[:, :, start:end])
            start = end
        return copy.chunk(2, dim=2)
