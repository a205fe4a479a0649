"""Models that run through our attention now: each is changed once, for all who use it at the same time.

A model may be in several hands at once: threads, two `with` blocks that overlap, generators that are read in turns. It
is changed when the first of them comes and changed back when the last has gone, in whichever order they go.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError


@dataclass
class _Installation:
    """What was done to a model, and for how many."""

    changes: contextlib.ExitStack
    users: int = 0


Change = Callable[[Any], contextlib.AbstractContextManager[None]]
_installed: weakref.WeakKeyDictionary[Any, dict[Change, _Installation]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


@contextlib.contextmanager
def shared(model: Any, change: Change) -> Iterator[None]:
    """Have a model changed while the `with` lasts.

    Args:
        model: of transformers.
        change: changes it, and changes it back; entered for the first of all who want this change of the model.
    """
    with _lock:
        if change not in _installed.get(model, {}):
            with contextlib.ExitStack() as changes:
                changes.enter_context(change(model))
                _installed.setdefault(model, {})[change] = _Installation(changes.pop_all())
        _installed[model][change].users += 1
    try:
        yield
    finally:
        with _lock:
            installation = _installed[model][change]
            installation.users -= 1
            if not installation.users:
                del _installed[model][change]
                if not _installed[model]:
                    del _installed[model]
                installation.changes.close()


def require_installed() -> None:
    """Refuse to read into a compressed cache while no model runs through our attention: nothing would be compacted.

    Raises:
        PrefixKVError: no model is installed.
    """
    if not _installed:
        raise PrefixKVError(
            "a compressed cache reads inside `with prefixkv.compress(model)` only, the first time and later: put the "
            "call of generate, or of the model, into the `with`"
        )
