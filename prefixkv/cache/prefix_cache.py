"""The compressed cache as transformers sees it: rows, one or three hundred, each of its own length in every layer.

Works with stock `generate`: it tells transformers how many tokens were read, so positions are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from prefixkv.cache import hand_off
from prefixkv.cache.hand_off import HandOff
from prefixkv.cache.installations import require_installed
from prefixkv.cache.layer import CompressedLayer
from prefixkv.cache.left_layers import LeftLayers
from prefixkv.cache.refusals import RefusingCache
from prefixkv.cache.row import CacheRow
from prefixkv.cache.row_attention import RowsPass
from prefixkv.cache.states import RowStates
from prefixkv.cache.usage import CacheUsage, ShownByUsage
from prefixkv.errors import PrefixKVError
from prefixkv.methods.table import DEFAULT_METHOD, Method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.text_marks import TextMarks


class PrefixKVCache(LeftLayers, RefusingCache, ShownByUsage):
    """A KV cache that holds every row to a budget; see `CacheRow` for what a row keeps, and how.

    It takes batches of any size. Padding, which `generate` wants on the left, may be anywhere that the attention mask
    says. A budget in bytes is for the whole batch and divided evenly. A batch of one is its row and nothing else.

    Attributes:
        budget: what all rows may store together.
        rows: what is stored; one row while nothing was read.
        layers: the first row's compressed layers; those that attend to a sliding window are in `windows`.
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
        """Make an empty cache.

        Args:
            geometry: the model's KV shape.
            budget: what to keep, as `Budget.parse` reads it.
            method: name of a method.
            keep_fractions: as for `CacheRow`.
            look_ahead: likewise.
            codec: name of a codec.

        Raises:
            OptionError: unknown method, budget or codec, or a codec that cannot store the model's vectors.
            BudgetTooSmallError: when a hard limit cannot hold the method's protected entries.
        """
        super().__init__(layers=[CompressedLayer(geometry.head_dim, getattr(torch, geometry.dtype))])
        self._places = geometry.compressed_layers
        self._first = min({*self._places, *geometry.window_layers})
        self._hold([CacheRow(geometry, budget, method, keep_fractions, look_ahead, codec)])
        self.budget = self.row.budget

    @classmethod
    def of_rows(cls, rows: Sequence[CacheRow]) -> PrefixKVCache:
        """A view of rows that exist, for forward passes that read a token, or a chunk, of each.

        Args:
            rows: of one model, which may differ in everything else; what is read is stored in them.
        """
        first = rows[0]
        cache = cls(first.geometry, first.budget, *first.rule)
        cache._hold(rows)
        return cache

    def _hold(self, rows: Sequence[CacheRow]) -> None:
        self.rows = list(rows)
        self._marks: TextMarks | None = None
        self._is_in_pass = False
        self._pass = RowsPass(self.rows)
        self.states = RowStates(self.rows)
        # The columns of the text that each decoder layer has read, padding included.
        self._columns = [max(row.seen_tokens for row in rows)] * len(self)

    def emptied(self) -> PrefixKVCache:
        """An empty cache of the same kind: same shape, budget, method, shares, look-ahead queries and codec."""
        row = self.rows[0]
        return type(self)(row.geometry, self.budget, *row.rule)

    @property
    def row(self) -> CacheRow:
        """The only row.

        Raises:
            PrefixKVError: there are several.
        """
        if len(self.rows) > 1:
            raise PrefixKVError(f"the cache holds {len(self.rows)} rows, where one is wanted: see its `rows`")
        return self.rows[0]

    @property
    def layers(self) -> list[Any]:
        """The compressed layers of the first row, in order."""
        return self.rows[0].layers

    @layers.setter
    def layers(self, layers: list[Any]) -> None:
        """Transformers' own constructor sets them; the rows bring theirs."""

    @property
    def geometry(self) -> KVGeometry:
        """The model's KV shape."""
        return self.rows[0].geometry

    @property
    def method(self) -> Method:
        """How it is chosen what stays."""
        return self.rows[0].method

    @property
    def keep_fractions(self) -> Sequence[float] | None:
        """Proportions of the layers' shares from a configuration; None where the method finds them."""
        return self.rows[0].keep_fractions

    @property
    def look_ahead(self) -> LookAhead | None:
        """A profile's queries, where the method uses them."""
        return self.rows[0].look_ahead

    @property
    def codec(self) -> Codec:
        """In which precision entries are stored, as it was asked for."""
        return self.rows[0].codec

    @property
    def windows(self) -> dict[int, Any]:
        """The first row's window layers, by their number among all decoder layers."""
        return self.rows[0].windows

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever evicted: method `full`, or a budget of 100 %."""
        return all(row.keeps_all for row in self.rows)

    @property
    def seen_tokens(self) -> int:
        """Tokens that the cache has read; of several rows, columns, padding included."""
        return self.rows[0].seen_tokens if len(self.rows) == 1 else self._columns[self._places[0]]

    @property
    def next_positions(self) -> torch.Tensor | None:
        """(batch,), int64, see `CacheRow`; None for models whose positions are the numbers of tokens."""
        positions = [row.next_positions for row in self.rows]
        known = [position for position in positions if position is not None]
        return torch.cat(known) if len(known) == len(positions) else None

    @next_positions.setter
    def next_positions(self, positions: torch.Tensor | None) -> None:
        if positions is not None:
            self.open_rows(positions.shape[0])
        for index, row in enumerate(self.rows):
            row.next_positions = None if positions is None else positions[index : index + 1]

    def kept_positions(self, layer: int) -> torch.Tensor:
        """Original positions of a layer's entries, (batch, heads, kept_tokens), int64, in the order of the buffer.

        A position counts a row's own tokens, without padding. Rows that keep fewer entries end in -1.
        """
        rows = [row.kept_positions(layer)[0] for row in self.rows]
        padded = rows[0].new_full((len(rows), rows[0].shape[0], max(row.shape[-1] for row in rows)), -1)
        for target, row in zip(padded, rows, strict=True):
            target[:, : row.shape[-1]] = row
        return padded

    def usage(self) -> CacheUsage:
        """What is stored now, against the uncompressed cache; a layer's numbers are sums over the rows."""
        return CacheUsage.together([row.usage() for row in self.rows])

    def reset(self) -> None:
        """Forget everything and free the buffers."""
        for row in self.rows:
            row.reset()
        self._hold(self.rows if len(self.rows) == 1 else [self.rows[0].emptied(self.budget)])

    def mark(self, marks: TextMarks) -> None:
        """Say which tokens of the next chunk are text; where nobody says, all are."""
        self._marks = marks

    @property
    def is_marked(self) -> bool:
        """Whether it was said for a chunk that was not read yet."""
        return self._marks is not None

    def count_step(self) -> None:
        """Count a column as read whose tokens a step has stored in the rows by itself."""
        self._columns = [columns + 1 for columns in self._columns]

    def begin_pass(self) -> None:
        """A forward pass of the model begins, and `end_pass` will be told when all of it is queued."""
        self._is_in_pass = True

    def end_pass(self) -> None:
        """Settle what each row holds from now on."""
        # Of a pass that has failed there may be marks.
        self._is_in_pass, self._marks = False, None
        for row in self.rows:
            row.end_pass()

    @torch.compiler.disable
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in one layer's new keys and values; called by the model.

        Args:
            key_states: (batch, kv_heads, new_len, head_dim), after RoPE, padding included.
            value_states: same shape.
            layer_idx: the layer, among all decoder layers.
            *args: ignored.
            **kwargs: ignored.

        Returns:
            Keys and values that the attention call recognises; of one row, what it attends to.
        """
        batch, new_len = key_states.shape[0], key_states.shape[2]
        self.open_rows(batch)
        marks: TextMarks | None = None
        if layer_idx == self._places[0]:
            marks, self._marks = self._marks or TextMarks(None, 0), None
        for row in self.rows if marks is not None else ():
            row.is_in_pass, row.beside = self._is_in_pass, batch
        self._columns[layer_idx] += new_len
        if batch == 1 and not self._pass.can_step(layer_idx, key_states, value_states):
            if marks is not None:
                self.row.mark(marks)
            return self.row.update(key_states, value_states, layer_idx)
        if layer_idx == self._first:
            self._pass.begin()
        again = HandOff(rows=partial(self._pass.attend_again, layer_idx)) if self.geometry.bare_layers else None
        hand_off.leave(key_states, HandOff(rows=partial(self._pass.attend, layer_idx, marks), again=again))
        return key_states, value_states

    def open_rows(self, batch: int) -> None:
        """Make sure that there are so many rows, before the first of a batch's tokens is read."""
        if batch == len(self.rows):
            return
        if self.seen_tokens:
            held = "one row" if len(self.rows) == 1 else f"{len(self.rows)} rows"
            raise PrefixKVError(
                f"the cache has read {held} and cannot take {batch}: give each batch a cache of its own"
            )
        budget, first = self.budget, self.rows[0]
        if budget.kind == "bytes":
            first.capacity.check_floor(batch)
            budget = Budget(budget.text, budget.kind, budget.amount / batch)
        in_pass, marks = self._is_in_pass, self._marks
        self._hold([first.emptied(budget) for _ in range(batch)])
        self._is_in_pass, self._marks = in_pass, marks

    def __len__(self) -> int:
        """All decoder layers."""
        return self.geometry.decoder_layers

    def _seen(self, layer_idx: int) -> int:
        """Columns that a decoder layer has read."""
        if len(self.rows) == 1:
            return self.rows[0].seen_at(layer_idx)
        has_entries = layer_idx in self._places or layer_idx in self.windows
        return self._columns[layer_idx if has_entries else self._places[0]]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Where the model believes to be, see `CacheRow.position`; of several rows, columns."""
        if len(self.rows) > 1 or layer_idx in self.windows or self.method.positions == "true":
            return self._seen(layer_idx)
        return self.rows[0].position

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of a decoder layer's mask, which a model asks for first; refused if none is installed."""
        require_installed()
        seen = self._seen(layer_idx)
        if layer_idx not in self.windows:
            return seen + query_length, 0
        held = min(seen, self.geometry.window_tokens - 1)
        return held + query_length, seen - held

    @property
    def is_initialized(self) -> bool:
        """Whether something was read."""
        return self._seen(self._places[0]) > 0
