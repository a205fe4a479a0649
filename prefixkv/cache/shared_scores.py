"""What a method says of one layer's entries, said once for several caches that take in the same prompt.

Scores depend on the prompt, the layer and the method, with its look-ahead queries; neither on the budget nor on the
codec.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

Scores = tuple[torch.Tensor, torch.Tensor | None]
"""As `prefixkv.cache.scoring.score` gives them."""


class _Slot(threading.local):
    known: dict[str, Scores] | None = None


_slot = _Slot()


@contextmanager
def shared(known: dict[str, Scores]) -> Iterator[None]:
    """Have scores looked up in this thread, and noted, while one layer of an empty cache takes in its chunk.

    Args:
        known: by the method's name, of this layer and prompt, with the same look-ahead queries in all caches.
    """
    _slot.known = known
    try:
        yield
    finally:
        _slot.known = None


def known_scores() -> dict[str, Scores] | None:
    """Where scores are looked up and noted; None where nobody shares them."""
    return _slot.known
