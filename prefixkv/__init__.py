"""Compress the KV cache of vision-language models, every layer by its own share (PrefixKV, arXiv 2412.03409).

Importing this package changes nothing and loads no torch: the names below are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefixkv.cache.prefix_cache import PrefixKVCache
    from prefixkv.chat.conversation import Conversation
    from prefixkv.compression import compress
    from prefixkv.engine.engine import Engine
    from prefixkv.errors import PrefixKVError
    from prefixkv.generation.sampling import Sampling
    from prefixkv.methods.method import Method
    from prefixkv.methods.table import register_method
    from prefixkv.models.loading import load_model
    from prefixkv.models.placement import Placement
    from prefixkv.policy.budget import Budget
    from prefixkv.profiles.config import PrefixConfig
    from prefixkv.profiles.profile import LayerProfile

__version__ = "0.1.0"

_HOMES = {
    "Budget": "prefixkv.policy.budget",
    "Conversation": "prefixkv.chat.conversation",
    "Engine": "prefixkv.engine.engine",
    "LayerProfile": "prefixkv.profiles.profile",
    "Method": "prefixkv.methods.method",
    "Placement": "prefixkv.models.placement",
    "PrefixConfig": "prefixkv.profiles.config",
    "PrefixKVCache": "prefixkv.cache.prefix_cache",
    "PrefixKVError": "prefixkv.errors",
    "Sampling": "prefixkv.generation.sampling",
    "compress": "prefixkv.compression",
    "load_model": "prefixkv.models.loading",
    "register_method": "prefixkv.methods.table",
}

__all__ = [
    "Budget",
    "Conversation",
    "Engine",
    "LayerProfile",
    "Method",
    "Placement",
    "PrefixConfig",
    "PrefixKVCache",
    "PrefixKVError",
    "Sampling",
    "__version__",
    "compress",
    "load_model",
    "register_method",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prefixkv' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, so that an editor or a notebook completes them before they are loaded."""
    return __all__
