"""A layer's curve on its way to the host, which does not wait for it before it needs the numbers."""

from __future__ import annotations

from functools import cached_property

import torch

from prefixkv.kernels.sending import Fetching


class CurveTransfer:
    """A curve that is copied beside what the device does next."""

    def __init__(self, curves: Fetching, layer: int) -> None:
        """Name one of several curves.

        Args:
            curves: (layers, seen_len), float64.
            layer: which of them.
        """
        self._curves, self._layer = curves, layer

    @classmethod
    def begin(cls, curves: torch.Tensor) -> list[CurveTransfer]:
        """Copy the curves of layers, all at once.

        Args:
            curves: (layers, seen_len), float64.
        """
        fetching = Fetching(curves)
        return [cls(fetching, layer) for layer in range(len(curves))]

    @property
    def is_there(self) -> bool:
        """Whether nobody would have to wait."""
        return self._curves.is_there

    @cached_property
    def numbers(self) -> list[float]:
        """The curve. The first call waits until the device has come that far, and no longer."""
        return self._curves.host[self._layer].tolist()
