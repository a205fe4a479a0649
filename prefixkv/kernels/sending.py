"""Tensors on their way from the host to a device, which the host does not wait for.

A copy from memory that is not pinned waits for all that the device has to do before it.
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
