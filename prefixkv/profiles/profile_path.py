"""Where a model's profile is: measured by the user, or bundled."""

from __future__ import annotations

from pathlib import Path

from prefixkv.home import find_file, named_file
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


def find_profile(name_or_path: str) -> Path:
    """The profile that is meant: a path, the name under which one was saved, or `demo`, which is bundled.

    Raises:
        OptionError: the name could lead elsewhere.
        PrefixKVError: there is none of that name.
    """
    found = profile_path(name_or_path) if name_or_path == "demo" else None
    return found or find_file("profiles", name_or_path)
