"""Tensors on their way between the host and a device, which the host does not wait for.

A copy between a device and memory that is not pinned waits for all that the device has to do before it.
"""

from __future__ import annotations

import torch


def sent(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor on a device, behind what that has to do.

    Args:
        tensor: of the host, or already there.
        device: where it is wanted.
        dtype: in which; its own where None.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device, dtype)
    # Pinned memory from torch's pool, which does not give it out again before it is read.
    return tensor.to(dtype).pin_memory().to(device, non_blocking=True)


class Fetching:
    """A device's tensor on its way to the host."""

    def __init__(self, tensor: torch.Tensor) -> None:
        """Begin to copy it; a GPU does so behind what it has to do, and is not waited for."""
        self._host, self._arrived = tensor, None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    @property
    def is_there(self) -> bool:
        """Whether nobody would have to wait."""
        return self._arrived is None or self._arrived.query()

    @property
    def host(self) -> torch.Tensor:
        """The copy, of the same shape; waits until it is there, and not for what was queued behind it."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
