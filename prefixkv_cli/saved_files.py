"""Files that were saved under a name: taking one away."""

from __future__ import annotations

import re
from pathlib import Path

from prefixkv.errors import PrefixKVError
from prefixkv.home import named_file, names
from prefixkv_cli import output


def remove_saved(folder: str, kind: str, name: str) -> None:
    """Remove what was saved under a name, with a profile its look-ahead queries, and say so.

    Args:
        folder: of the home folder: `configs`, `contexts` or `profiles`.
        kind: what one of its files is called, for the message.
        name: as it was saved.

    Raises:
        PrefixKVError: there is none of this name; the names that there are are listed.
    """
    target = named_file(folder, name)
    if not target.is_file() and not target.is_symlink():
        known = ", ".join(names(folder)) or "none yet"
        raise PrefixKVError(f"there is no {kind} named {name!r}: there are {known}")
    target.unlink()
    output.notice(f"removed {target}")
    for queries in _queries_beside(target) if folder == "profiles" else ():
        queries.unlink()
        output.notice(f"removed {queries}")


def _queries_beside(profile: Path) -> list[Path]:
    """Files of look-ahead queries that lie beside a profile, also those of earlier measurements."""
    named = re.compile(re.escape(profile.stem) + r"-[0-9a-f]{12}\.safetensors")
    return sorted(path for path in profile.parent.iterdir() if named.fullmatch(path.name))
