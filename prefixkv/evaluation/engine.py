"""Which code figures come from, so that those of another engine are not taken for them. Knows nothing of torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

import prefixkv


def engine_digest() -> str:
    """Digest of the package's whole source.

    Kernels, scorers and methods are found by their names and not by import statements, so that no narrower choice of
    files can be told to hold all that decides a figure.
    """
    folder = Path(prefixkv.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        text = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:16]
