"""Python's collector of reference cycles, kept from walking over modules that are just being imported.

The imports of torch and transformers make millions of objects, of which nearly all stay. By default the collector walks
over all of them again and again meanwhile, which is an eighth of a short command's processor time.
"""

from __future__ import annotations

import gc

_OBJECTS_BETWEEN = 200_000
_DEFAULT = gc.get_threshold()


def collect_seldom() -> None:
    """Let the collector run seldom, while much is imported, and look again at what was left alone so far."""
    gc.unfreeze()
    gc.set_threshold(_OBJECTS_BETWEEN, *_DEFAULT[1:])


def collect_as_usual() -> None:
    """Let it run as often as Python has it, and leave alone for ever what is there now: modules, and a model."""
    gc.freeze()
    gc.set_threshold(*_DEFAULT)
