"""Shares: how many entries each layer may keep, found while the layers read a chunk one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.policy import allocation
from prefixkv.policy.curve_transfer import CurveTransfer
from prefixkv.policy.methods import Method


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
        self._curves: list[CurveTransfer] = []
        # On the device until they are needed, or it would halt for each.
        self._masses: list[torch.Tensor] = []
        self._known: list[int] | None = None
        self._fetched = 0

    @property
    def is_known(self) -> bool:
        """Whether the shares do not depend on the text."""
        return self._fractions is not None or self._method.allocator in ("uniform", "pyramid")

    @property
    def needs_curves(self) -> bool:
        """Whether a layer's share follows from its curve."""
        return not self.is_known and self._method.allocator != "text"

    def add_curves(self, curves: torch.Tensor) -> None:
        """Take in the next layers, where shares follow from curves.

        Args:
            curves: (layers, entries), float64, see `prefixkv.kernels.curve`.
        """
        self._curves += CurveTransfer.begin(curves)

    def add_pictures(self, mass: torch.Tensor) -> None:
        """Take in the next layer, where shares follow from what pictures bear.

        Args:
            mass: the importance of its picture entries together, one number.
        """
        self._masses.append(mass)

    def fetch(self) -> int:
        """Take over the curves that have come to the host, so that little is left to do when they are needed.

        Returns:
            The first layers whose curves are there.
        """
        while self._fetched < len(self._curves) and self._curves[self._fetched].is_there:
            _ = self._curves[self._fetched].numbers
            self._fetched += 1
        return self._fetched

    def known(self, total: int, seen: int) -> list[int]:
        """Entries for all layers, where shares do not depend on the text; a layer may have fewer.

        Args:
            total: entries that all layers together may keep.
            seen: tokens read.
        """
        if self._known is None:
            self._known = self._find_known(total, seen, min(self._method.floor_tokens, seen))
        return self._known

    def _find_known(self, total: int, seen: int, floor: int) -> list[int]:
        if self._fractions is None and self._method.allocator == "uniform":
            return allocation.uniform(total, self._layers)
        if self._fractions is None:
            return allocation.pyramid(total, self._layers, seen, floor)
        if self._method.allocator != "release":
            return allocation.proportional(self._fractions, total, floor, seen)
        counts = allocation.release_known(self._fractions, seen, floor)
        return allocation.trimmed(counts, total) if self._is_hard_limit else counts

    def counts(
        self, total: int, seen: int, ceilings: Sequence[int], later: Sequence[int], text_tokens: int
    ) -> list[int]:
        """Entries for the first layers, as far as they have read; no fewer than after further layers.

        Args:
            total: entries that all layers together may keep.
            seen: tokens read.
            ceilings: for each of these layers the entries that it still has.
            later: for each later layer the entries that are reserved for it, if that is more than its floor.
            text_tokens: how many of the tokens read are text.
        """
        floor, read = min(self._method.floor_tokens, seen), len(ceilings)
        if self._method.allocator == "text":
            masses = [0.0] * read
            if self._masses:
                masses = torch.stack([mass.to(self._masses[0].device) for mass in self._masses]).tolist()
            shares = allocation.text_first(masses, total, min(text_tokens, seen), floor, seen)
            return [min(pair) for pair in zip(ceilings, shares, strict=True)]
        curves = [curve.numbers for curve in self._curves[:read]]
        if self._method.allocator == "release":
            counts = allocation.release(curves, min(1.0, total / sum(map(len, curves))), floor)
            return allocation.trimmed(counts, total) if self._is_hard_limit else counts
        room = max(total - sum(max(floor, stored) for stored in later), floor * read)
        if self._method.allocator == "prefix":
            return allocation.prefix(curves, room, floor, ceilings)
        return self._mixed(curves, total, room, floor, ceilings)

    def _mixed(
        self, curves: Sequence[Sequence[float]], total: int, room: int, floor: int, ceilings: Sequence[int]
    ) -> list[int]:
        """Half even, half by the threshold over everything that has arrived, as a cut does not follow the threshold."""
        even = allocation.uniform(total, self._layers)
        even = [min(len(curve), count) for curve, count in zip(curves, even, strict=False)]
        counts = allocation.mean(even, allocation.prefix(curves, room, floor))
        if self._is_hard_limit:
            counts = allocation.trimmed(counts, room)
        elif len(curves) < self._layers:
            # Which halves are rounded up changes as shares fall.
            counts = [count + 1 for count in counts]
        return [min(pair) for pair in zip(ceilings, counts, strict=True)]
