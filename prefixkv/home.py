"""Where profiles, configurations and contexts live, and how a name becomes a file there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from prefixkv.errors import OptionError, PrefixKVError

SUFFIXES = {"contexts": ".safetensors"}
"""How the files of a folder end, where that is not .json."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def home() -> Path:
    """`PREFIXKV_HOME`, else the platform's folder for user data."""
    chosen = os.environ.get("PREFIXKV_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("prefixkv", appauthor=False)


def named_file(folder: str, name: str) -> Path:
    """The file of a name.

    Args:
        folder: `configs`, `profiles` or `contexts`.
        name: letters, digits, dot, underscore and dash.

    Raises:
        OptionError: the name could lead elsewhere.
        PrefixKVError: the folder is a link that leads out of the home folder.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(f"name {name!r} is not allowed: use letters, digits, '.', '_' and '-', 100 at most")
    path = home() / folder / (name + _suffix(folder))
    if not path.parent.resolve().is_relative_to(home().resolve()):
        raise PrefixKVError(f"{path.parent} leads out of {home()}: remove the link")
    return path


def find_file(folder: str, name_or_path: str) -> Path:
    """The file meant by a name or a path: a path where it has a separator or the folder's suffix, else a name."""
    if os.sep in name_or_path or name_or_path.endswith(_suffix(folder)):
        return Path(name_or_path).expanduser()
    path = named_file(folder, name_or_path)
    if not path.exists() and not path.is_symlink():
        known = ", ".join(names(folder)) or "none yet"
        raise PrefixKVError(f"there is no {folder.removesuffix('s')} named {name_or_path!r}: there are {known}")
    return path


def names(folder: str) -> list[str]:
    """All names in a folder, sorted."""
    found = (home() / folder).glob(f"*{_suffix(folder)}")
    return sorted(path.stem for path in found if not path.name.startswith("."))


def _suffix(folder: str) -> str:
    return SUFFIXES.get(folder, ".json")
