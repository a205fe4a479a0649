"""The one line that a terminal shows while nothing else is there yet: what is being waited for; gone with the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_WAITED_FOR = frozenset({"chat", "save", "batch", "eval", "bench", "profile", "search"})
"""Commands that load a model, which takes seconds."""
_ANSWERED_AT_ONCE = frozenset({"--help", "-h", "--quiet", "-q", "list", "show", "compare", "remove", "path"})
_ERASE = "\r\x1b[K"
_is_wanted, _is_shown = True, False


def show_start(words: Sequence[str]) -> None:
    """Show at once that a command has been taken, before its own modules are imported; with `plain` nothing ever.

    Args:
        words: the command line.
    """
    global _is_wanted
    _is_wanted = "--plain" not in words
    command = next((word for word in words if not word.startswith("-")), None)
    if command in _WAITED_FOR and not _ANSWERED_AT_ONCE & set(words):
        if not _has_terminal():
            return
        from prefixkv_cli.settings.file import is_switched_on

        _is_wanted = _is_wanted and not is_switched_on("plain")
        if is_switched_on("quiet"):
            return
        show_sign("starting")


def show_sign(doing: str) -> None:
    """Show what is being done, in place of what was shown; nothing where stderr is no terminal.

    Args:
        doing: in a word or two, such as `loading demo`.
    """
    global _is_shown
    if not _is_wanted or not _has_terminal():
        return
    sys.stderr.write(f"{_ERASE}{doing} ...")
    sys.stderr.flush()
    _is_shown = True


def end_sign() -> None:
    """Take it away, where it is shown."""
    global _is_shown
    if _is_shown and sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.write(_ERASE)
        sys.stderr.flush()
    _is_shown = False


def _has_terminal() -> bool:
    stream = sys.stderr
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"
