"""Which server answers a question: one that is named, the user's own that runs, or none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from prefixkv.errors import OptionError
from prefixkv.home import home
from prefixkv_cli import output

OFF = "off"
KEY_VARIABLE = "PREFIXKV_API_KEY"
_URL = re.compile(r"https?://[^/\s]+(/[^\s?#]*)?")


class ServerAddress(NamedTuple):
    """A server.

    Attributes:
        url: with http or https, without `/v1`.
        key: for it; empty for none.
        model: that it answers with; empty where that is not known before it is asked.
    """

    url: str
    key: str = ""
    model: str = ""


def choose_server(given: str | None, model: str, needs_engine: Sequence[str]) -> ServerAddress | None:
    """The server that is to answer.

    Args:
        given: `--server`: an address, `off`, or None where the user's own is used if it runs.
        model: `--model`, as it was given.
        needs_engine: what was asked for that only a model in this process can do, as the user calls it.

    Returns:
        None where this process answers; it is said why, where a server runs or was named.

    Raises:
        OptionError: a server is named that cannot do what is asked for, or its address is none.
    """
    if given == OFF:
        return None
    if given is not None:
        if not _URL.fullmatch(given):
            raise OptionError(f"server {given!r} is no address: give one such as http://127.0.0.1:8311, or {OFF}")
        if needs_engine:
            raise OptionError(f"{needs_engine[0]} needs a model in this process: leave it out, or give --server {OFF}")
        url = given.rstrip("/").removesuffix("/v1")
        own = own_server()
        if own is not None and own.url == url:
            return ServerAddress(url, own.key, "" if model == "auto" else model)
        return ServerAddress(url, os.environ.get(KEY_VARIABLE, ""), "" if model == "auto" else model)
    own = own_server()
    if own is None:
        return None
    reason = needs_engine[0] if needs_engine else ""
    if not reason and model not in ("auto", own.model):
        reason = f"model {model!r}"
    if reason:
        output.notice(f"the server at {own.url} is not asked: {reason} needs a model in this process")
        return None
    return own


def own_server() -> ServerAddress | None:
    """The user's own, by its file, where it is there at all without loading what reads it."""
    if not (home() / "server.json").exists():
        return None
    from prefixkv.server.home_file import find_server

    found = find_server()
    return None if found is None else ServerAddress(found.url, found.token, found.model)
