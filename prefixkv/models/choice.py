"""Which real model `auto` means on a machine: one that is here, or the one to download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefixkv.models.download import is_here
from prefixkv.models.names import ALIASES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RealModel:
    """A model that knows real pictures.

    Attributes:
        id: hub id.
        weight_bytes: of its weights as they are published, in 16 bits.
    """

    id: str
    weight_bytes: int


SMALL = RealModel("HuggingFaceTB/SmolVLM-500M-Instruct", 1_015_025_832)
REAL_MODELS = (
    RealModel(ALIASES["llava"], 14_126_854_144),
    RealModel("Qwen/Qwen2-VL-2B-Instruct", 4_417_971_200),
    SMALL,
)
"""From the largest to the smallest."""
WEIGHTS_SHARE = 0.6
"""Share of a machine's memory that the weights may take; the rest is for the cache, activations and other programs."""


def fitting_models(memory_bytes: int, on_cpu: bool) -> tuple[RealModel, ...]:
    """The models that fit, the best first: on a GPU the largest, on a CPU, where every token takes long, the smallest.

    Args:
        memory_bytes: of the GPU, or of the machine.
        on_cpu: whether the model runs on a CPU, where weights are in 32 bits.
    """
    width = 2 if on_cpu else 1
    fits = [model for model in REAL_MODELS if model.weight_bytes * width <= WEIGHTS_SHARE * memory_bytes] or [SMALL]
    return tuple(reversed(fits)) if on_cpu else tuple(fits)


def real_model(device: torch.device, here: Callable[[str], bool] = is_here) -> tuple[RealModel, bool]:
    """The model that `auto` takes for real pictures.

    Args:
        device: where it is to run.
        here: whether a model of that hub id was downloaded.

    Returns:
        The best of those that fit and are here, and True; or the best that fits, and False.
    """
    fits = fitting_models(memory_bytes(device), device.type != "cuda")
    found = next((model for model in fits if here(model.id)), None)
    return (found, True) if found is not None else (fits[0], False)


def memory_bytes(device: torch.device) -> int:
    """All memory of a CUDA device, or of the host for any other."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return int(psutil.virtual_memory().total)
