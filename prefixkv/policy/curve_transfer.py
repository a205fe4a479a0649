"""A layer's curve on its way to the host, which does not wait for it before it needs the numbers."""

from __future__ import annotations

from functools import cached_property

import torch


class CurveTransfer:
    """Copies a curve beside what the device does next."""

    def __init__(self, curve: torch.Tensor) -> None:
        """Begin.

        Args:
            curve: (seen_len,), float64.
        """
        self._host, self._arrived = curve, None
        if curve.is_cuda:
            self._host = torch.empty(curve.shape, dtype=curve.dtype, pin_memory=True)
            self._host.copy_(curve, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(curve.device))

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
