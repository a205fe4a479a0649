"""A batch whose rows differ in length: every row is compressed as if it were alone.

Each row has a `PrefixKVCache` of its own, so what is kept, and how many entries, is decided by the row's own text; the
padding is never read. A prompt's rows attend one after the other. While decoding, all rows attend in one call wherever
their entries can share one buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from prefixkv.cache import attention
from prefixkv.cache.joined_rows import JoinedRows
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.methods import DEFAULT_METHOD, Method

Attend = Callable[..., tuple[torch.Tensor, None]]


class RowsCache(PrefixKVCache):
    """A `PrefixKVCache` that takes batches of any size; with one row it is nothing else.

    Padding, which `generate` wants on the left, may be anywhere that the attention mask says. A budget in bytes is
    for the whole batch and divided evenly. Window layers are transformers' own and see the padding's mask.

    Attributes:
        rows: one cache for each row; empty while there is only one.
    """

    def __init__(
        self,
        geometry: KVGeometry,
        budget: str | float | Budget = "20%",
        method: str | Method = DEFAULT_METHOD,
        keep_fractions: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        """Make an empty cache.

        Args:
            geometry: the model's KV shape.
            budget: what to keep, as `Budget.parse` reads it.
            method: name of a method.
            keep_fractions: proportions of the layers' shares, from a configuration.
            **options: further arguments of `PrefixKVCache`, for every row.

        Raises:
            OptionError: unknown method or budget.
            BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        """
        super().__init__(geometry, budget, method, keep_fractions, **options)
        self.rows: tuple[PrefixKVCache, ...] = ()
        self._new_row = partial(PrefixKVCache, geometry, method=method, keep_fractions=keep_fractions, **options)
        self._joined: list[JoinedRows] = []
        self._columns = [0] * geometry.layers

    @property
    def seen_tokens(self) -> int:
        """Tokens that the cache has read; of a batch, columns, padding included."""
        return self._columns[0] if self.rows else super().seen_tokens

    def kept_positions(self, layer: int) -> torch.Tensor:
        """Original positions of a layer's entries, (batch, heads, kept_tokens), int64, in the order of the buffer.

        A position counts a row's own tokens, without padding. Rows that keep fewer entries end in -1.
        """
        if not self.rows:
            return super().kept_positions(layer)
        rows = [row.kept_positions(layer)[0] for row in self.rows]
        padded = rows[0].new_full((len(rows), rows[0].shape[0], max(row.shape[-1] for row in rows)), -1)
        for target, row in zip(padded, rows, strict=True):
            target[:, : row.shape[-1]] = row
        return padded

    def usage(self) -> CacheUsage:
        """What is stored now in all rows together; a layer's numbers of tokens are sums over the rows."""
        if not self.rows:
            return super().usage()
        layers = []
        for index in range(self.geometry.layers):
            stored = [row.layers[index] for row in self.rows]
            names = ("seen_tokens", "kept_tokens", "kept_bytes")
            layers.append(LayerUsage(index, *(sum(getattr(layer, name) for layer in stored) for name in names)))
        full = sum(layer.seen_tokens for layer in layers) * self.geometry.entry_bytes
        kept_bytes = sum(layer.bytes for layer in layers)
        storages = {
            part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
            for row in self.rows
            for layer in row.layers
            for part in (layer.keys, layer.values)
            if part is not None
        }
        return CacheUsage(full, kept_bytes, sum(storages.values()), kept_bytes / full if full else 1.0, tuple(layers))

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        super().reset()
        self.rows, self._joined = (), []
        self._columns = [0] * self.geometry.layers

    @torch.compiler.disable
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in one layer's new keys and values; called by the model.

        Args:
            key_states: (batch, kv_heads, new_len, head_dim), after RoPE, padding included.
            value_states: same shape.
            layer_idx: the layer.
            *args: ignored.
            **kwargs: ignored.

        Returns:
            Keys and values that the attention call recognises.
        """
        batch = key_states.shape[0]
        if (batch == 1 and not self.rows) or layer_idx in self.windows:
            return super().update(key_states, value_states, layer_idx)
        if not self.rows:
            self._open_rows(batch)
        if batch != len(self.rows):
            raise PrefixKVError(
                f"the cache holds {len(self.rows)} rows and cannot take {batch}: give each batch a cache"
            )
        number = self.number(layer_idx)
        is_step = key_states.shape[2] == 1 and self._columns[number] > 0
        self._columns[number] += key_states.shape[2]
        attention.hand_off(key_states, None, partial(self._step if is_step else self._read_chunk, layer_idx))
        return key_states, value_states

    def _open_rows(self, batch: int) -> None:
        if super().seen_tokens:
            raise PrefixKVError(
                f"the cache has read one row and cannot take {batch}: give each batch a cache of its own"
            )
        budget = self.budget
        if budget.kind == "bytes":
            self.budget.check_floor(self.geometry, self.method.floor_tokens, batch)
            budget = Budget(budget.text, budget.kind, budget.amount / batch)
        self.rows = tuple(self._new_row(budget=budget) for _ in range(batch))
        self._joined = [JoinedRows(self.budget.is_hard_limit) for _ in range(self.geometry.layers)]

    def _read_chunk(
        self,
        layer_idx: int,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Every row attends, and is compacted, by itself; where it is padded the output is 0."""
        self._joined[self.number(layer_idx)].clear()
        batch, query_heads, chunk_len, head_dim = query.shape
        output = query.new_zeros(batch, chunk_len, query_heads, head_dim)
        for index, (row, own) in enumerate(zip(self.rows, _own_columns(mask, batch, chunk_len), strict=True)):
            if isinstance(own, torch.Tensor) and not len(own):
                continue
            queries, new_keys, new_values = (part[index : index + 1, :, own] for part in (query, key, value))
            if self.number(layer_idx) == 0:
                row.mark(self._marks.row(index, own))
                if self.next_positions is not None:
                    row.next_positions = self.next_positions[index : index + 1]
            keys, values = row.update(new_keys, new_values, layer_idx)
            overlay = None
            if mask is not None and mask.shape[2] > 1:
                overlay = mask[index : index + 1, :, :, mask.shape[-1] - chunk_len :][:, :, own][..., own]
            output[index, own] = attend(queries, keys, values, _widened(overlay, keys.shape[2]))[0][0]
        return output

    def _step(
        self,
        layer_idx: int,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Every row stores its new token; then all rows attend."""
        number = self.number(layer_idx)
        for index, row in enumerate(self.rows):
            row.update(key[index : index + 1], value[index : index + 1], layer_idx)
        layers = [row.layers[number] for row in self.rows]
        joined = self._joined[number]
        if joined.join(layers):
            keys, values, visible = joined.view(layers)
            keys, values = layers[0].unpacked(keys), layers[0].unpacked(values)
            attention.hand_off(keys, None)
            return attend(query, keys, values, visible)[0]
        outputs = []
        for index, layer in enumerate(layers):
            keys, values = layer.entries
            attention.hand_off(keys, None)
            outputs.append(attend(query[index : index + 1], keys, values, None)[0])
        return torch.cat(outputs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that a decoder layer has read."""
        if not self.rows or layer_idx in self.windows:
            return super().get_seq_length(layer_idx)
        return self._columns[self.number(layer_idx)]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the mask of a decoder layer."""
        if not self.rows or layer_idx in self.windows:
            return super().get_mask_sizes(query_length, layer_idx)
        attention.require_installed()
        return self._columns[self.number(layer_idx)] + query_length, 0

    @property
    def is_initialized(self) -> bool:
        """Whether something was read."""
        return self.seen_tokens > 0


def _own_columns(mask: torch.Tensor | None, batch: int, chunk_len: int) -> list[slice | torch.Tensor]:
    """Each row's columns of a chunk that are not padding; a slice, which copies nothing, where they are in one piece.

    Args:
        mask: (batch, 1, query_len or 1, tokens), bool; its last query sees all of its row. None without padding.
        batch: rows.
        chunk_len: columns of the chunk.
    """
    if mask is None:
        return [slice(0, chunk_len)] * batch
    columns: list[slice | torch.Tensor] = []
    for row in mask[:, 0, -1, mask.shape[-1] - chunk_len :].expand(batch, -1):
        own = row.nonzero()[:, 0]
        ends = own[[0, -1]].tolist() if len(own) else [0, -1]
        in_one_piece = len(own) > 0 and ends[1] - ends[0] + 1 == len(own)
        columns.append(slice(ends[0], ends[1] + 1) if in_one_piece else own)
    return columns


def _widened(overlay: torch.Tensor | None, key_len: int) -> torch.Tensor | None:
    """A chunk's own mask, with columns in front for the entries that are stored, which every query sees."""
    if overlay is None:
        return None
    stored = overlay.new_ones(*overlay.shape[:-1], key_len - overlay.shape[-1])
    return torch.cat([stored, overlay], dim=-1)
