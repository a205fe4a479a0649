"""Where a model's profile is: measured by the user, or bundled."""

from __future__ import annotations

from pathlib import Path

from prefixkv.home import named_file
from prefixkv.models.names import profile_name


def profile_path(model: str) -> Path | None:
    """The profile of a model: the one that the user has measured, else the bundled one; None where there is neither.

    Args:
        model: `auto`, `demo`, an alias, a hub id or a folder.

    Raises:
        PrefixKVError: the installation lacks the demo model's profile.
    """
    path = named_file("profiles", profile_name(model))
    if path.is_file():
        return path
    if model in ("auto", "demo"):
        from prefixkv.demo import profile_path as bundled

        return bundled()
    return None
