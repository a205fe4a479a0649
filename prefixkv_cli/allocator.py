"""How torch's allocator holds a GPU's memory; said before torch is loaded, unless the user has said it."""

from __future__ import annotations

import os
import sys

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Torch's own variable, and its name before torch 2.9."""
SETTING = "expandable_segments:True"

_chosen_here: set[str] = set()


def prepare_allocator() -> None:
    """Let torch's blocks grow and shrink.

    A compressed cache is many buffers of many sizes that outlive the working memory between which they lie. In blocks
    of fixed size that leaves holes which nothing fits.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in VARIABLES):
        os.environ.update(dict.fromkeys(VARIABLES, SETTING))
        _chosen_here.update(VARIABLES)


def is_chosen_here(variable: str) -> bool:
    """Whether a variable of the environment was set by `prepare_allocator`, and not by the user.

    Args:
        variable: its name.
    """
    return variable in _chosen_here and os.environ.get(variable) == SETTING
