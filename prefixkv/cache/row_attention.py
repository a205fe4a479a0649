"""Attention of several rows in one forward pass: each row takes in its own tokens and attends to its own entries."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.cache.hand_off import Attend
from prefixkv.cache.row import CacheRow
from prefixkv.cache.row_step import RowSteps
from prefixkv.cache.windows import window_mask
from prefixkv.policy.text_marks import TextMarks

_Read = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""What a row's queries attended to: keys, values, and a mask if there was one."""


class RowsPass:
    """Forward passes of several rows; which columns are a row's own is asked once in each, for all layers."""

    def __init__(self, rows: Sequence[CacheRow]) -> None:
        """Take the rows.

        Args:
            rows: one for each row of the batch.
        """
        self._rows, self._steps = rows, RowSteps()
        self.begin()

    def begin(self) -> None:
        """Begin a pass."""
        self._columns: Sequence[slice | torch.Tensor] | None = None
        self._read: dict[int, list[_Read | None]] = {}

    def can_step(self, place: int, key: torch.Tensor, value: torch.Tensor) -> bool:
        """Whether new keys and values are those of a step that all rows may make by one call, if it is plain attention.

        Args:
            place: the layer, among all decoder layers.
            key: (batch, kv_heads, new_len, head_dim).
            value: same shape.
        """
        geometry = self._rows[0].geometry
        is_apart = place in self._rows[0].windows or geometry.bare_layers or geometry.is_latent
        return self._is_step(place, key.shape[2]) and not is_apart and self._steps.can_attend(key, value)

    def _is_step(self, place: int, new_len: int) -> bool:
        """Whether it is one token of each row, none of them padding, and all have read a prompt of their own."""
        return new_len == 1 and all(row.seen_at(place) and row.prefix is None for row in self._rows)

    def attend(
        self,
        place: int,
        marks: TextMarks | None,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> torch.Tensor:
        """Have every row take in its new tokens, attend, and be compacted, by itself.

        Args:
            place: the layer, among all decoder layers.
            marks: which tokens are text, where a chunk begins; else None.
            attend: the attention of this layer, called with query, key, value and mask.
            query: (batch, query_heads, new_len, head_dim), padding included.
            key: (batch, kv_heads, new_len, head_dim).
            value: same shape.
            mask: (batch, 1, new_len or 1, tokens), bool, of the text's columns; None without padding.
            scale: factor on the dot products, where attention is their softmax and nothing else; None else.

        Returns:
            (batch, new_len, query_heads, head_dim); 0 where a row is padded.
        """
        batch, query_heads, new_len = query.shape[:3]
        if scale is not None and self.can_step(place, key, value):
            return self._steps.attend(self._rows, place, query, key, value, scale)
        is_shared, is_step = bool(self._rows[0].geometry.bare_layers), self._is_step(place, new_len)
        output: torch.Tensor | None = None
        read: list[_Read | None] = []
        if self._columns is None:
            self._columns = [slice(0, 1)] * batch if is_step else _own_columns(mask, batch, new_len)
        for index, (row, own) in enumerate(zip(self._rows, self._columns, strict=True)):
            if isinstance(own, torch.Tensor) and not len(own):
                read.append(None)
                continue
            queries, new_keys, new_values = (part[index : index + 1, :, own] for part in (query, key, value))
            if marks is not None:
                row.mark(marks.row(index, own))
            keys, values = row.update(new_keys, new_values, place)
            seen = None if is_step else _own_mask(mask, index, own, new_len)
            if place in row.windows:
                begins = row.seen_at(place) if row.geometry.has_chunks else None
                window = row.geometry.window_tokens
                seen = window_mask(seen, queries.shape[2], keys.shape[2], window, keys.device, begins)
            elif seen is not None:
                # Every query sees the entries that are stored.
                stored = seen.new_ones(*seen.shape[:-1], keys.shape[2] - seen.shape[-1])
                seen = torch.cat([stored, seen], dim=-1)
            attended = attend(queries, keys, values, seen)[0][0]
            if output is None:
                output = query.new_zeros(batch, new_len, query_heads, attended.shape[-1])
            output[index, own] = attended
            read.append((keys, values, seen) if is_shared else None)
        self._read[place] = read
        return query.new_zeros(batch, new_len, query_heads, value.shape[-1]) if output is None else output

    def attend_again(
        self,
        place: int,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> torch.Tensor:
        """Have the rows of another layer attend to what the rows of a layer attended to in this pass; as for `attend`.

        Args:
            place: the layer whose keys and values are read.
            attend: the attention of the other layer.
            query: of the other layer.
            key: of the new tokens, as the first layer had them.
            value: likewise.
            mask: as the first layer had it.
            scale: as for `attend`.
        """
        assert self._columns is not None
        output = query.new_zeros(*query.shape[:1], query.shape[2], query.shape[1], value.shape[-1])
        for index, (read, own) in enumerate(zip(self._read[place], self._columns, strict=True)):
            if read is not None:
                keys, values, seen = read
                output[index, own] = attend(query[index : index + 1, :, own], keys, values, seen)[0][0]
        return output


def _own_columns(mask: torch.Tensor | None, batch: int, new_len: int) -> Sequence[slice | torch.Tensor]:
    """Each row's columns of a chunk that are not padding; a slice, which copies nothing, where they are in one piece.

    Args:
        mask: (batch, 1, new_len or 1, tokens), bool: what is visible, by columns where there is one query for all; a
            padding column does not even see itself. None without padding.
        batch: rows.
        new_len: columns of the chunk.
    """
    if mask is None:
        return [slice(0, new_len)] * batch
    columns: list[slice | torch.Tensor] = []
    last = mask[:, 0, :, mask.shape[-1] - new_len :]
    visible = last[:, 0] if mask.shape[2] == 1 else last.diagonal(dim1=1, dim2=2)
    for row in visible.expand(batch, -1):
        own = row.nonzero()[:, 0]
        ends = own[[0, -1]].tolist() if len(own) else [0, -1]
        in_one_piece = len(own) > 0 and ends[1] - ends[0] + 1 == len(own)
        columns.append(slice(ends[0], ends[1] + 1) if in_one_piece else own)
    return columns


def _own_mask(mask: torch.Tensor | None, index: int, own: slice | torch.Tensor, new_len: int) -> torch.Tensor | None:
    """What a row's new tokens see of each other, where a mask says more than which columns are padding."""
    if mask is None or mask.shape[2] == 1:
        return None
    mask = mask.expand(-1 if mask.shape[0] > 1 else index + 1, -1, -1, -1)
    return mask[index : index + 1, :, :, mask.shape[-1] - new_len :][:, :, own][..., own]
