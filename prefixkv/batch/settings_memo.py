"""Which settings' digest a command has led to before, so that a finished batch is known without loading a model.

A digest of settings is made of the loaded model's parts. The same command on the same files of the model, with the same
profiles, libraries and devices, leads to the same digest; where anything of that has changed, or was never seen, the
model says. Losing the file costs seconds, never an answer. Knows nothing of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefixkv import __version__
from prefixkv.documents import read_json, write_json
from prefixkv.errors import PrefixKVError
from prefixkv.home import home
from prefixkv.models.choice import REAL_MODELS
from prefixkv.models.files import model_folder

_MOST_ENTRIES = 200
_LIBRARIES = ("torch", "transformers", "tokenizers", "pillow")


def request_digest(model: str, options: Mapping[str, Any]) -> str | None:
    """What a digest of settings depends on, as far as it can be seen without loading anything.

    Args:
        model: as the user names it.
        options: of the command: all that may change an answer.

    Returns:
        None where it cannot be seen: the model is not on this disk.
    """
    gpus = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    # Which of these `auto` takes follows from the pictures, which the lines' own digests have, and from the machine.
    names = ["demo", *(real.id for real in REAL_MODELS)] if model == "auto" else [model]
    folders = [folder for name in names if (folder := model_folder(name)) is not None]
    if not folders:
        return None
    where = [platform.node(), gpus, os.environ.get("CUDA_VISIBLE_DEVICES")]
    libraries = [__version__, *(version(name) for name in _LIBRARIES)]
    files = [_listing(folder) for folder in (*folders, home() / "profiles")]
    content = [model, [str(folder) for folder in folders], sorted(options.items()), where, libraries, files]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:24]


def recall(request: str) -> str | None:
    """The settings' digest that a request has led to; None where it is not known."""
    found = _entries().get(request)
    return found if isinstance(found, str) else None


def remember(request: str, settings: str) -> None:
    """Note what a request has led to; where nothing can be written, nothing is."""
    entries = {name: value for name, value in _entries().items() if name != request}
    kept = dict(list(entries.items())[1 - _MOST_ENTRIES :]) | {request: settings}
    try:
        write_json(_path(), kept)
    except PrefixKVError:
        return


def _path() -> Path:
    return home() / "batch-settings.json"


def _entries() -> dict[str, Any]:
    try:
        content = read_json(_path())
    except PrefixKVError:
        return {}
    return content if isinstance(content, dict) else {}


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Name, bytes and time of every file in a folder, links followed."""
    if not folder.is_dir():
        return []
    found = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
    return [(name, status.st_size, status.st_mtime_ns) for name, status in found]
