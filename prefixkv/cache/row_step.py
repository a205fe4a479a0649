"""Steps on the CPU: new entries of all rows are packed in one call, and the entries of several unpacked in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from prefixkv.cache.fine_run import Run, joined
from prefixkv.cache.row import CacheRow
from prefixkv.cache.stored_entries import packed_pair
from prefixkv.kernels.packed_row import key_bits, value_bits
from prefixkv.kernels.packing import turn, unpack_turned

COPY_BYTES = 2**21
"""Of the working copy of several rows' unpacked entries: a few times what a core has in its second cache. A row that
needs more is unpacked by itself."""


class RowSteps:
    """Has rows attend in steps that read one token of each.

    A query loses nothing by being turned as packed vectors are: few queries are turned, and few outputs turned back,
    instead of all keys and values.
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
        pairs: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {None: (key, value)}
        pairs |= {bits: packed_pair(key, value, bits) for bits in {row.bits for row in rows} if bits is not None}
        new = {bits: list(zip(keys.split(1), values.split(1), strict=True)) for bits, (keys, values) in pairs.items()}
        # The heads of a group ask the same keys: they stand for several queries of one head.
        queries = query.reshape(count, kv_heads, -1, head_dim)
        stored_runs = [row.store_step(*new[row.bits][index], place).runs for index, row in enumerate(rows)]
        outputs = [self._attend(stored_runs[some], queries[some], scale) for some in _alike(stored_runs, queries)]
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return output.view(query.shape).transpose(1, 2)

    def _attend(self, runs: Sequence[Sequence[Run]], queries: torch.Tensor, scale: float) -> torch.Tensor:
        """Attend to all runs of each of some rows, either all packed or none, (rows, kv_heads, group, head_dim)."""
        is_packed = runs[0][0][2] is not None
        entries = self._unpacked(runs, queries) if is_packed else [(keys, values) for ((keys, values, _),) in runs]
        attention = torch.nn.functional.scaled_dot_product_attention
        asked = (turn(queries) if is_packed else queries).split(1)
        outputs = [attention(one, *pair, scale=scale) for one, pair in zip(asked, entries, strict=True)]
        output = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        return turn(output) if is_packed else output

    def _unpacked(
        self, runs: Sequence[Sequence[Run]], like: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Read packed runs into the working copy, all that are in the same bits by one call.

        Args:
            runs: of each row.
            like: (any, kv_heads, any, head_dim), of the dtype that is wanted.

        Yields:
            Keys and values of a row's runs, (1, kv_heads, entries, head_dim), turned; what the next call overwrites.
        """
        parts: dict[int, list[torch.Tensor]] = {}
        for row in runs:
            for keys, values, pair in row:
                assert pair is not None
                parts.setdefault(key_bits(pair), []).append(keys)
                parts.setdefault(value_bits(pair), []).append(values)
        _, kv_heads, _, head_dim = like.shape
        vector_groups = {bits: sum(part.shape[2] for part in same) for bits, same in parts.items()}
        size = kv_heads * head_dim * sum(vector_groups.values())
        if self._copy.numel() < size:
            self._copy = like.new_empty(size)
        read: dict[int, Iterator[torch.Tensor]] = {}
        start = 0
        for bits, same in parts.items():
            end = start + kv_heads * head_dim * vector_groups[bits]
            copy = self._copy[start:end].view(1, kv_heads, -1, head_dim)
            unpack_turned(torch.cat(same, dim=2), bits, copy.dtype, copy)
            read[bits], start = iter(copy.split([part.shape[2] for part in same], dim=2)), end
        for row in runs:
            pairs = [(next(read[key_bits(pair)]), next(read[value_bits(pair)])) for _, _, pair in row if pair]
            yield pairs[0] if len(pairs) == 1 else joined(*pairs)


def _alike(runs: Sequence[Sequence[Run]], like: torch.Tensor) -> Iterator[slice]:
    """Rows next to each other that attend together: all packed or none, and unpacked in no more than `COPY_BYTES`.

    Args:
        runs: of each row.
        like: (any, kv_heads, any, head_dim), of the dtype in which they are unpacked.
    """
    entry_bytes = 2 * like.shape[1] * like.shape[3] * like.element_size()
    start, held, is_packed = 0, 0, False
    for index, row in enumerate(runs):
        own = entry_bytes * sum(keys.shape[2] for keys, _, _ in row)
        if index > start and (held + own > COPY_BYTES or is_packed != (row[0][2] is not None)):
            yield slice(start, index)
            start, held = index, 0
        held, is_packed = held + own, row[0][2] is not None
    yield slice(start, len(runs))
