"""Files that git-lfs would have to bring: without it, a cloned folder has a text in their place."""

from __future__ import annotations

from pathlib import Path

from prefixkv.errors import PrefixKVError

_POINTER = b"version https://git-lfs.github.com/spec"
_MOST_BYTES = 2**12
"""A pointer has some 130."""


def refuse_pointers(folder: Path) -> None:
    """Refuse a model's folder some of whose files are not here.

    Args:
        folder: with the model's config.json.

    Raises:
        PrefixKVError: a file, whether weights, tokenizer or anything else, is a pointer of git-lfs.
    """
    for file in sorted(folder.glob("*")):
        if _begins_as_pointer(file):
            raise PrefixKVError(
                f"{file.name} is a pointer of git-lfs, not the file itself: run `git lfs pull` in {folder}"
            )


def _begins_as_pointer(file: Path) -> bool:
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            return False
        with file.open("rb") as opened:
            return opened.read(len(_POINTER)) == _POINTER
    except OSError:  # whoever needs the file says so
        return False
