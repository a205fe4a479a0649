"""The uncompressed entries of a prefix with which several prompts begin, read once.

A row that takes them scores and compacts a copy of its own, as if it had read the whole prompt in one pass: beside keys
and values it is given the prefix's queries as far as its method's scorer looks at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.cache.states import StateTensors, fill_states, held_bytes, state_tensors
from prefixkv.cache.windows import window_bytes
from prefixkv.methods.evidence import WINDOW
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.text_marks import TextMarks


class PrefixRow(CacheRow):
    """Reads a prefix and keeps all of it.

    Attributes:
        queries: for each compressed layer (1, query_heads, count, head_dim), after RoPE: the last ones.
    """

    def __init__(self, geometry: KVGeometry, most_queries: int | None) -> None:
        """Make an empty row.

        Args:
            geometry: the model's KV shape.
            most_queries: last queries that are kept; None for all.
        """
        super().__init__(geometry, "100%", "full")
        self.queries: list[torch.Tensor] = []
        self._most_queries = most_queries

    def _compact(self, index: int, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> None:
        count = queries.shape[2] if self._most_queries is None else min(self._most_queries, queries.shape[2])
        self.queries.append(queries[:, :, queries.shape[2] - count :].clone(memory_format=torch.contiguous_format))
        super()._compact(index, queries, scale, keys)

    def as_prefix(self) -> PrefixEntries:
        """What was read; shares the row's memory."""
        layers = [(layer.keys, layer.values) for layer in self.layers]
        return PrefixEntries(
            self.seen_tokens,
            [(keys, values) for keys, values in layers if keys is not None and values is not None],
            self.queries,
            {
                place: (layer.keys, layer.values)
                for place, layer in self.windows.items()
                if layer.keys is not None and layer.values is not None
            },
            self.is_text,
            self.next_positions,
            state_tensors(self.states),
            sum(part.untyped_storage().nbytes() for pair in layers for part in pair if part is not None)
            + sum(queries.nbytes for queries in self.queries)
            + sum(map(window_bytes, self.windows.values()))
            + held_bytes(self.states),
        )


@dataclass(frozen=True)
class PrefixEntries:
    """A prefix that was read; only ever read from.

    Attributes:
        tokens: its length.
        layers: keys and values of each compressed layer, (1, kv_heads, tokens, head_dim), after RoPE.
        queries: of each compressed layer, (1, query_heads, count, head_dim), the last ones.
        windows: keys and values of each window layer, by its number among all decoder layers.
        is_text: (1, tokens), bool; None where all is text.
        next_positions: see `CacheRow`.
        states: tensors of the layers that keep a state, see `prefixkv.cache.states.state_tensors`.
        bytes: that the tensors take.
    """

    tokens: int
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    queries: list[torch.Tensor]
    windows: dict[int, tuple[torch.Tensor, torch.Tensor]]
    is_text: torch.Tensor | None
    next_positions: torch.Tensor | None
    states: StateTensors
    bytes: int

    def begin(self, row: CacheRow) -> None:
        """Have an empty row begin with the prefix: what it reads next follows it.

        Args:
            row: of the same model; its method's scorer looks at no more queries than were kept.
        """
        row.prefix, row.next_positions = self, self.next_positions
        # A model writes into them.
        fill_states(row.states, {key: tensor.clone() for key, tensor in self.states.items()})
        for place, (keys, values) in self.windows.items():
            layer = row.windows[place]
            layer.lazy_initialization(keys, values)
            # Transformers makes new tensors of these, and so do rows: none writes into them.
            layer.keys, layer.values, layer.cumulative_length = keys, values, self.tokens

    def before(self, index: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values with the prefix's in front of them, in memory of their own."""
        own = self.layers[index]
        return torch.cat([own[0].to(keys.device), keys], dim=2), torch.cat([own[1].to(keys.device), values], dim=2)

    def queries_before(self, index: int, queries: torch.Tensor) -> torch.Tensor:
        """A layer's queries with those of the prefix that were kept in front of them."""
        return torch.cat([self.queries[index].to(queries.device), queries], dim=2)

    def marks_before(self, marks: TextMarks, count: int) -> TextMarks:
        """Which tokens are text, of the prefix and of what follows.

        Args:
            marks: of what follows.
            count: tokens that follow.
        """
        if self.is_text is None and marks.is_text is None:
            return TextMarks(None, self.tokens + count)
        return TextMarks(marks.behind(self.is_text, 1, self.tokens, count), marks.tail)


def most_queries(row: CacheRow) -> int | None:
    """The last queries of a prompt that a row's scorer looks at; None for all of them."""
    if row.keeps_all or row.method.queries == "none":
        return 0
    looks_at_last = row.look_ahead is not None and row.look_ahead.is_recorded
    return WINDOW if row.method.queries == "window" or looks_at_last else None
