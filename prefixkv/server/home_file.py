"""The file in the home folder that says where the user's server is; only the user may read it.

Knows nothing of torch.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from prefixkv.documents import read_json, write_json
from prefixkv.errors import PrefixKVError
from prefixkv.home import home
from prefixkv.schemas.field import parse
from prefixkv.schemas.server import ServerSchema

NAME = "server.json"


def home_file() -> Path:
    """Its path, whether or not it is there."""
    return home() / NAME


def find_server() -> ServerSchema | None:
    """The server that runs; None where there is none, or its file is none of the user's alone."""
    path = home_file()
    try:
        status = path.stat()
        if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o077):
            return None
        found = parse(ServerSchema, read_json(path), str(path))
    except (OSError, PrefixKVError):
        return None
    return found if psutil.pid_exists(found.process) else None


def write_home_file(url: str, token: str, model: str) -> bool:
    """Say where this process serves.

    Args:
        url: without a path.
        token: the user's key.
        model: that answers.

    Returns:
        Whether it was said: not where another server of the user's runs.
    """
    if find_server() is not None:
        return False
    content = {"format": "prefixkv-server", "version": 1, "url": url, "process": os.getpid(), "token": token}
    # Files are written with leave to read for their owner alone.
    write_json(home_file(), {**content, "model": model})
    return True


def remove_home_file() -> None:
    """Take it away, if it is this process's."""
    found = find_server()
    if found is not None and found.process == os.getpid():
        home_file().unlink(missing_ok=True)
