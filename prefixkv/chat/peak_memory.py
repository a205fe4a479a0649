"""The most memory that was in use so far."""

from __future__ import annotations

import sys

import psutil
import torch


def peak_bytes(device: torch.device) -> int:
    """Most memory so far: what torch allocated on a CUDA device, else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows keeps count elsewhere.
        peak: int = psutil.Process().memory_info().peak_wset
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
