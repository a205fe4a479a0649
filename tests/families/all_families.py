"""All families that are tested with pictures or, where they read none, with text, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable

from tests.families.newer_models import NEWER
from tests.families.tiny_models import PICTURED, TEXT, Tiny

FAMILIES: dict[str, Callable[..., Tiny]] = PICTURED | TEXT | NEWER
"""By their usual names."""
