"""A model's blocks: the members of its outermost lists of modules, which a pass goes through one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def block_lists(module: torch.nn.Module) -> Iterator[torch.nn.ModuleList]:
    """The lists of blocks of a model, or of a part of it: decoder layers, and those of a vision tower.

    Args:
        module: of transformers.

    Yields:
        Lists that are in no other list.
    """
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            yield child
        else:
            yield from block_lists(child)
