"""The file in the home folder that says where the user's server is; only the user may read it.

Knows nothing of torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from prefixkv.documents import read_json, write_json
from prefixkv.errors import PrefixKVError
from prefixkv.home import home

NAME = "server.json"


class RunningServer(NamedTuple):
    """A server as its file has it.

    Attributes:
        url: without a path.
        process: its number.
        token: the user's key.
        model: that answers.
    """

    url: str
    process: int
    token: str
    model: str


def home_file() -> Path:
    """Its path, whether or not it is there."""
    return home() / NAME


def find_server() -> RunningServer | None:
    """The server that runs; None where there is none, or its file is none of the user's alone.

    `ServerSchema` has checked what the file holds when it was written, and nobody else writes it: who asks a question
    does not wait for pydantic, which takes longer to load than all else that asks.
    """
    path = home_file()
    try:
        status = path.stat()
        if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & 0o077):
            return None
        found = _server(read_json(path))
    except (OSError, PrefixKVError):
        return None
    return found if found is not None and _runs(found.process) else None


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
    from prefixkv.schemas.field import parse
    from prefixkv.schemas.server import ServerSchema

    content = {"format": "prefixkv-server", "version": 1, "url": url, "process": os.getpid(), "token": token}
    checked = parse(ServerSchema, {**content, "model": model}, str(home_file()))
    # Files are written with leave to read for their owner alone.
    write_json(home_file(), checked.model_dump())
    return True


def remove_home_file() -> None:
    """Take it away, if it is this process's."""
    found = find_server()
    if found is not None and found.process == os.getpid():
        home_file().unlink(missing_ok=True)


def _server(content: Any) -> RunningServer | None:
    """What the file says; None where it is of another format or version, or lacks something."""
    match content:
        case {
            "format": "prefixkv-server",
            "version": 1,
            "url": str(url),
            "process": int(process),
            "token": str(token),
            "model": str(model),
        }:
            return RunningServer(url, process, token, model)
    return None


def _runs(process: int) -> bool:
    """Whether there is a process of that number."""
    if os.name != "posix":
        import psutil

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
