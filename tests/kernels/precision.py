"""How exact a kernel must be: at most twice as far from higher precision as torch is in the kernel's own precision."""

from __future__ import annotations

import torch


def assert_precise(result: torch.Tensor, ordinary: torch.Tensor, exact: torch.Tensor) -> None:
    """Compare largest and mean error.

    A few units in the last place of float32 are allowed besides: a result of one or two numbers torch may get exactly
    right by luck.
    """
    assert result.shape == exact.shape
    assert bool(result.isfinite().all())
    ours, theirs = (result.double() - exact.double()).abs(), (ordinary.double() - exact.double()).abs()
    rounding = 8 * torch.finfo(torch.float32).eps * float(exact.abs().max())
    assert float(ours.max()) <= 2 * float(theirs.max()) + rounding
    assert float(ours.mean()) <= 2 * float(theirs.mean()) + rounding


def noise(*shape: int, dtype: torch.dtype, device: torch.device, seed: int, scale: float = 1.0) -> torch.Tensor:
    """Random numbers that are the same on every device."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).to(device, dtype)
