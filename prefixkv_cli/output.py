"""Where things go: answers and data on stdout; progress, tables, notices and errors on stderr.

All that the program says goes through here, and nothing of it reaches a terminal as a control sequence but Rich's own.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from prefixkv.errors import PrefixKVError
from prefixkv_cli.escaping import visible, visible_json
from prefixkv_cli.waiting_sign import end_sign

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_quiet = False
_MOST_NOTICES = 100
_notices: deque[str] = deque(maxlen=_MOST_NOTICES)
_held: ContextVar[list[str] | None] = ContextVar("_held", default=None)


class ReaderLeftError(Exception):
    """Nobody reads stdout any more, as after `| head -1`; no OSError, because Typer ends those with exit code 1."""


def stderr_console() -> Console:
    """A console on stderr; without colour where that is no terminal, or where NO_COLOR is set."""
    from prefixkv_cli.safe_console import SafeConsole

    end_sign()
    return SafeConsole(stderr=True, highlight=False)


def stdout_console() -> Console:
    """A console on stdout, likewise.

    Raises:
        PrefixKVError: there is no stdout.
    """
    from prefixkv_cli.safe_console import SafeConsole

    end_sign()
    _require_stdout()
    return SafeConsole(highlight=False)


def natural_width(renderable: RenderableType) -> int:
    """Columns that a table takes where there is room for all of it."""
    from prefixkv_cli.safe_console import SafeConsole

    return SafeConsole(width=10**4).measure(renderable).maximum


def be_quiet(quiet: bool) -> bool:
    """Say nothing but answers, data and errors from now on; the callback of `--quiet`."""
    global _quiet
    _quiet = quiet
    return quiet


def is_quiet() -> bool:
    """Whether notices and progress are left out."""
    return _quiet


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is there and is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def notice(text: str) -> None:
    """One line that the user should know."""
    if (held := _held.get()) is not None:
        held.append(text)
        return
    _notices.append(text)
    if not _quiet:
        _line("note", text, style="dim")


@contextmanager
def notices_held(held: list[str]) -> Iterator[None]:
    """Keep the notices of this thread for later, while another one has the terminal.

    Args:
        held: takes them.
    """
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)


def status(text: str) -> None:
    """One line of a conversation that says what is so: how it stands, what a command has done, what an answer took."""
    if not _quiet:
        _line("", text, style="dim")


def take_notices() -> list[str]:
    """The notices since the last call, also those that were not to be printed; the newest, where they are many."""
    taken = list(_notices)
    _notices.clear()
    return taken


def error(text: str) -> None:
    """The one line that says what went wrong."""
    _line("error", text, style="red")


def agrees(question: str) -> bool:
    """Ask in the terminal, on stderr; Enter says yes, the end of input no.

    Args:
        question: to be answered with yes or no.
    """
    stderr_console().print(visible(f"{question} [Y/n] "), end="", markup=False)
    # Not `input`, which would write to stdout, where answers alone go.
    line = sys.stdin.readline()
    return line.strip().lower() in ("", "y", "yes") and line != ""


def show(renderable: RenderableType) -> None:
    """A table or the like, on stderr."""
    stderr_console().print(renderable)


def write_json(record: Mapping[str, Any] | list[Any]) -> None:
    """The one value that `--json` promises, on stdout."""
    _write(visible_json(json.dumps(record, ensure_ascii=False)) + "\n")


def write_document(kind: str, content: Mapping[str, Any]) -> None:
    """The one object that `--json` promises, on stdout, with what it is; docs/schemas has its fields.

    Args:
        kind: its `format`, without the program's name.
        content: the other fields.
    """
    write_json({"format": f"prefixkv-{kind}", "version": 1, **content})


def write_text(text: str) -> None:
    """A piece of an answer, on stdout, at once; what the terminal's encoding lacks is replaced.

    Raises:
        ReaderLeftError: whoever read stdout has closed it.
        PrefixKVError: there is no stdout.
    """
    _write(visible(text))


def flush() -> None:
    """Write what is held back, where there is a stdout."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _write(text: str) -> None:
    end_sign()
    _require_stdout()
    encoding = sys.stdout.encoding
    try:
        sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderLeftError from error


def _line(label: str, text: str, style: str) -> None:
    text = visible(" ".join(text.splitlines()))
    said = f"{label}: {text}" if label else text
    # A terminal's lines are broken between words; a file's are not broken at all.
    wraps = is_terminal(sys.stderr)
    stderr_console().print(said, style=style, markup=False, soft_wrap=not wraps)


def _require_stdout() -> None:
    if sys.stdout is None:
        raise PrefixKVError("standard output is closed: leave it open, or send it to a file")
