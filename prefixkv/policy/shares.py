"""Shares: how many entries each layer may keep, found while the layers read a chunk one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prefixkv.methods import allocation
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import Method
from prefixkv.policy.curve_transfer import CurveTransfer
from prefixkv.policy.method_calls import allocate


class LayerShares:
    """The allocation of one chunk: what its method's `allocate` is told of the layers, and when."""

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
        return self._fractions is not None or self._method.shares == "known"

    @property
    def needs_curves(self) -> bool:
        """Whether a layer's share follows from its curve."""
        return not self.is_known and not self._method.keeps_text

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
            floor = min(self._method.floor_tokens, seen)
            if self._fractions is None:
                self._known = allocate(self._method, self._read(total, seen, [seen] * self._layers))
            elif self._method.rounding == "exact":
                self._known = allocation.proportional(self._fractions, total, floor, seen)
            else:
                counts = allocation.release_known(self._fractions, seen, floor)
                self._known = allocation.trimmed(counts, total) if self._is_hard_limit else counts
        return self._known

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
        curves = [curve.numbers for curve in self._curves[: len(ceilings)]]
        pictures: list[float] = []
        if self._masses:
            pictures = torch.stack([mass.to(self._masses[0].device) for mass in self._masses]).tolist()
        counts = allocate(self._method, self._read(total, seen, ceilings, curves, later, pictures, text_tokens))
        return [min(pair) for pair in zip(ceilings, counts, strict=True)]

    def _read(
        self,
        total: int,
        seen: int,
        ceilings: Sequence[int],
        curves: Sequence[Sequence[float]] = (),
        later: Sequence[int] = (),
        pictures: Sequence[float] = (),
        text_tokens: int = 0,
    ) -> LayersRead:
        floor = min(self._method.floor_tokens, seen)
        own = (total, self._layers, seen, floor, self._is_hard_limit)
        return LayersRead(*own, ceilings, curves, later, pictures, text_tokens)
