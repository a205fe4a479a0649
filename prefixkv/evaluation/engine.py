"""Which code figures come from, so that those of another engine are not taken for them. Knows nothing of torch."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import prefixkv

_ROOTS = ("cache/prefix_cache", "cache/attention")


def engine_digest() -> str:
    """Digest of the code that decides what is kept: the cache, attention, and all of this package that they import."""
    folder = Path(prefixkv.__file__).parent
    pending = [folder / f"{root}.py" for root in _ROOTS]
    texts: dict[str, bytes] = {}
    while pending:
        file = pending.pop()
        name = str(file.relative_to(folder))
        if name not in texts:
            texts[name] = file.read_bytes()
            pending += [found for found in _imported(texts[name], folder) if found.is_file()]
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(texts[name])
    return digest.hexdigest()[:16]


def _imported(text: bytes, folder: Path) -> Iterator[Path]:
    """Files that a module may import from this package, methods aside: each record names its method's own recipe."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        for name in names:
            package, *parts = name.split(".")
            if package == "prefixkv" and parts and parts != ["policy", "methods"]:
                yield folder.joinpath(*parts).with_suffix(".py")
