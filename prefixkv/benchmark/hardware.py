"""The device that a benchmark ran on, and what it could do at best."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

import prefixkv

COPY_BYTES = {"cuda": 2**31, "cpu": 2**27, "mps": 2**28}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes that a large copy within the device's memory reads and writes in a second; the best of ten."""
    source = torch.empty(COPY_BYTES[device.type] // 4, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    seconds = []
    for _ in range(12):
        synchronize(device)
        started = time.perf_counter()
        torch.add(source, 0.0, out=target)
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * source.numel() * 4 / min(seconds[2:])


def allocated_bytes(device: torch.device) -> int:
    """Bytes of the tensors that exist on a CUDA device; 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes of tensors since `reset_peak`; None where the device does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def peak_above(device: torch.device, before: int) -> int | None:
    """The same, less the bytes that existed before."""
    peak = peak_bytes(device)
    return None if peak is None else peak - before


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds that some work takes, all that it has queued included."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def reset_peak(device: torch.device) -> None:
    """Give unused memory back and begin to watch the peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions and commit, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "device_type": device.type,
        "versions": {
            "prefixkv": prefixkv.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "triton": _triton_version(),
            "python": platform.python_version(),
        },
        "commit": _commit(),
    }


def median_ms(seconds: list[float]) -> float:
    """Median of times in seconds, in milliseconds."""
    return statistics.median(seconds) * 1000


def _triton_version() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    version: str = triton.__version__
    return version


def _commit() -> str | None:
    """The commit of the source tree; None where this is no checkout or git is not there."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
