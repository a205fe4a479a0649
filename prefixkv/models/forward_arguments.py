"""What a model's forward pass is called with, whichever version of transformers calls it. Knows nothing of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments, None where there is none; transformers 5.24 renamed it."""
    return arguments.get("cache", arguments.get("past_key_values"))
