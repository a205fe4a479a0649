"""Which weights a model has: a digest of a sample of every one of its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

SAMPLE = 64
"""Numbers of each tensor that are looked at: fast enough for every start, and training changes them all."""


def weight_digest(model: torch.nn.Module) -> str:
    """Hex digest of the names, shapes and a sample of all parameters.

    Two models with the same settings but other weights differ, whichever tensors were trained.

    Args:
        model: on any device.
    """
    return tensor_digest(model.named_parameters())


def tensor_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Hex digest of the names, shapes and a sample of tensors.

    Args:
        tensors: with their names; those that are not loaded (meta) count by name and shape.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        if not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // SAMPLE)][:SAMPLE]
            digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
