"""What runs here: versions and devices, as a bug report needs them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from prefixkv import __version__
from prefixkv.home import home

PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "pillow",
    "typer",
    "rich",
    "prompt_toolkit",
)
SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "NO_COLOR",
    "TERM",
    "LANG",
)
"""Environment variables that change what happens; nothing secret is among them."""
_UNTOLD = ("PROMPT", "SYSTEM")


def describe_machine() -> dict[str, Any]:
    """Versions, devices and settings; imports torch to ask for the devices."""
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    variables = [name for name in os.environ if name.startswith("PREFIXKV_")]
    return {
        "prefixkv": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [{"name": gpu.name, "bytes": gpu.total_memory} for gpu in gpus],
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in PACKAGES},
        "home": str(home()),
        "variables": {name: _value(name) for name in sorted({*variables, *SETTINGS} & set(os.environ))},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _value(name: str) -> str:
    """What a variable holds; not what the user wrote to a model."""
    return "(set)" if name.endswith(_UNTOLD) else os.environ[name]
