"""Shares: how many entries each layer may keep, found while the layers read a chunk one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.policy import allocation
from prefixkv.policy.methods import Method
from prefixkv.policy.selection import cumulative_importance


class LayerShares:
    """The allocation of one chunk.

    Shares that do not depend on the text are known beforehand. Those of `prefix` and `mixed` can only fall with every
    further layer. Those of `release` and `text` are known when all layers have read.
    """

    def __init__(
        self, method: Method, layers: int, keep_fractions: Sequence[float] | None, is_hard_limit: bool = False
    ) -> None:
        """Begin a chunk.

        Args:
            method: whose allocator it is.
            layers: of the model.
            keep_fractions: proportions from a configuration, which then decide.
            is_hard_limit: whether even the release's rounding may not exceed the total.
        """
        self._method, self._layers, self._fractions = method, layers, keep_fractions
        self._is_hard_limit = is_hard_limit
        self._curves: list[list[float]] = []
        # On the device until they are needed: each fetch makes it halt.
        self._waiting: list[torch.Tensor] = []
        self._masses: list[float] = []
        self._found: list[int] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the shares do not depend on the text."""
        return self._fractions is not None or self._method.allocator in ("uniform", "pyramid")

    def add(self, importance: torch.Tensor, picture_mass: float) -> None:
        """Take in the next layer.

        Args:
            importance: (batch, heads, entries), float.
            picture_mass: the importance of its picture entries.
        """
        self._masses.append(picture_mass)
        if not self.is_known and self._method.allocator != "text":
            self._waiting.append(cumulative_importance(importance))

    def counts(
        self, total: int, seen: int, ceilings: Sequence[int], later: Sequence[int], text_tokens: int
    ) -> list[int]:
        """Entries for the layers read so far.

        Args:
            total: entries that all layers together may keep.
            seen: tokens read.
            ceilings: for each layer so far the entries that it still has.
            later: for each later layer the entries that it stores.
            text_tokens: how many of the tokens read are text.
        """
        floor, read = min(self._method.floor_tokens, seen), len(ceilings)
        self._curves += [curve.tolist() for curve in self._waiting]
        self._waiting.clear()
        if self.is_known and self._found is None:
            self._found = self._known(total, seen, floor)
        known = self._found
        if known is not None:
            return [min(ceiling, share) for ceiling, share in zip(ceilings, known[:read], strict=True)]
        if self._method.allocator == "text":
            shares = allocation.text_first(self._masses, total, min(text_tokens, seen), floor, seen)
            return [min(ceiling, share) for ceiling, share in zip(ceilings, shares, strict=True)]
        if self._method.allocator == "release":
            counts = allocation.release(self._curves, min(1.0, total / sum(map(len, self._curves))), floor)
            return allocation.trimmed(counts, total) if self._is_hard_limit else counts
        reserved = sum(max(floor, stored) for stored in later)
        curves = [curve[:ceiling] for curve, ceiling in zip(self._curves, ceilings, strict=True)]
        counts = allocation.prefix(curves, max(total - reserved, floor * read), floor)
        if self._method.allocator == "mixed":
            even = allocation.uniform(total, self._layers)[:read]
            counts = allocation.mean([min(*pair) for pair in zip(even, ceilings, strict=True)], counts)
        return counts

    def _known(self, total: int, seen: int, floor: int) -> list[int] | None:
        if self._fractions is not None:
            if self._method.allocator == "release":
                counts = allocation.release_known(self._fractions, seen, floor)
                return allocation.trimmed(counts, total) if self._is_hard_limit else counts
            return allocation.proportional(self._fractions, total, floor, seen)
        if self._method.allocator == "uniform":
            return allocation.uniform(total, self._layers)
        if self._method.allocator == "pyramid":
            return allocation.pyramid(total, self._layers, seen, floor)
        return None
