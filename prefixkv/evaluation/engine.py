"""Which code figures come from, so that those of another engine are not taken for them. Knows nothing of torch."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

import prefixkv
from prefixkv.errors import PrefixKVError
from prefixkv.methods.method import Method


def engine_digest() -> str:
    """Digest of the package's whole source.

    Kernels, scorers and methods are found by their names and not by import statements, so that no narrower choice of
    files can be told to hold all that decides a figure.
    """
    return _digest(Path(prefixkv.__file__).parent)


def method_digests(method: Method) -> list[str]:
    """Digests of the source of a method's functions that are not of this package: of the whole packages they are in.

    Raises:
        PrefixKVError: one has no source that can be read, such as one that was typed into a prompt.
    """
    modules = sorted({function.__module__ for function in method.functions.values()})
    return [_source_digest(name, method.name) for name in modules if name.split(".")[0] != prefixkv.__name__]


@functools.lru_cache
def _source_digest(module: str, method: str) -> str:
    name = module.split(".")[0]
    # A package that is a mere folder has no file of its own.
    file = getattr(sys.modules.get(name), "__file__", None) or getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        raise PrefixKVError(f"method {method!r} has no source whose digest a record could hold: put it into a file")
    return _digest(Path(file).parent if Path(file).name == "__init__.py" else Path(file))


def _digest(source: Path) -> str:
    """Digest of a folder's Python files, or of one file."""
    folder, files = (source, sorted(source.rglob("*.py"))) if source.is_dir() else (source.parent, [source])
    digest = hashlib.sha256()
    for file in files:
        text = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return digest.hexdigest()[:16]
