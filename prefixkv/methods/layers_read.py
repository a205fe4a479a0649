"""What is known of the layers when a method is asked for their shares. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefixkv.methods import allocation


@dataclass(frozen=True)
class LayersRead:
    """The layers of one chunk, as far as they have read it.

    Attributes:
        total: entries that all layers of the model together may keep.
        layers: of the model.
        seen: tokens read, those of earlier chunks among them.
        floor: entries that every layer keeps at least; no more than `seen`.
        is_hard_limit: whether not even rounding may exceed the total.
        ceilings: for each layer that has read, the entries that it still has. Where shares are known beforehand these
            are `seen` for all layers.
        curves: for each layer that has read, the cumulative importance of its 1, 2, ... most important entries,
            ascending to 1; empty where shares are known beforehand, and for methods that keep text first.
        later: for each later layer, the entries that are reserved for it if that is more than its floor.
        pictures: for methods that keep text first, the importance of each layer's picture entries together; empty where
            there is no picture.
        text_tokens: how many of the tokens read are text.
    """

    total: int
    layers: int
    seen: int
    floor: int
    is_hard_limit: bool
    ceilings: Sequence[int]
    curves: Sequence[Sequence[float]] = ()
    later: Sequence[int] = ()
    pictures: Sequence[float] = ()
    text_tokens: int = 0

    @property
    def room(self) -> int:
        """Entries for the layers that have read: what later layers have, or need at least, is left to them."""
        reserved = sum(max(self.floor, stored) for stored in self.later)
        return max(self.total - reserved, self.floor * len(self.ceilings))


def uniform(read: LayersRead) -> list[int]:
    """Give every layer the same number of entries."""
    return allocation.uniform(read.total, read.layers)


def prefix(read: LayersRead) -> list[int]:
    """Share by one threshold on the cumulative importance of all layers that have read (PrefixKV)."""
    return allocation.prefix(read.curves, read.room, read.floor, read.ceilings)
