"""A layer's curve on its way to the host, which does not wait for it before it needs the numbers."""

from __future__ import annotations

from functools import cached_property

import torch


class CurveTransfer:
    """A curve that is copied beside what the device does next."""

    def __init__(self, host: torch.Tensor, arrived: torch.cuda.Event | None) -> None:
        """Wait for a copy that has begun.

        Args:
            host: (seen_len,), float64, where it arrives.
            arrived: recorded behind the copy; None where it is there.
        """
        self._host, self._arrived = host, arrived

    @classmethod
    def begin(cls, curves: torch.Tensor) -> list[CurveTransfer]:
        """Copy the curves of layers, all at once.

        Args:
            curves: (layers, seen_len), float64.
        """
        host, arrived = curves, None
        if curves.is_cuda:
            host = torch.empty(curves.shape, dtype=curves.dtype, pin_memory=True)
            host.copy_(curves, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(curves.device))
        return [cls(curve, arrived) for curve in host]

    @property
    def is_there(self) -> bool:
        """Whether nobody would have to wait."""
        return self._arrived is None or self._arrived.query()

    @cached_property
    def numbers(self) -> list[float]:
        """The curve. The first call waits until the device has come that far, and no longer."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
