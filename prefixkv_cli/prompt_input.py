"""The prompt of a single answer: from the option, from a pipe, or from both."""

from __future__ import annotations

import select
import sys

from prefixkv.errors import OptionError
from prefixkv_cli import output

_PATIENCE_SECONDS = 2.0


def read_prompt(option: str | None, needed: bool = False) -> str | None:
    """The prompt, or None where there is to be a conversation.

    Text that is piped in is the prompt; with `option` as well, both, the option first.

    Args:
        option: the value of `--prompt`.
        needed: whether a conversation will not do.

    Raises:
        OptionError: the prompt is blank, or there is none and no conversation is possible.
    """
    if option is not None and not option.strip():
        raise OptionError("the prompt is empty: give some text after --prompt")
    piped = "" if sys.stdin is None or output.is_terminal(sys.stdin) else _read_stdin().strip()
    if option is not None:
        return f"{option}\n{piped}" if piped else option
    if piped:
        return piped
    if needed:
        raise OptionError("--json answers one prompt: give --prompt, or pipe one in")
    if not output.is_terminal(sys.stdin):
        raise OptionError("there is no prompt: give --prompt, pipe one in, or run in a terminal for a conversation")
    return None


def _read_stdin() -> str:
    # A program that starts us may leave its own stdin open to us and never write to it: say what is being waited for.
    try:
        ready, _, _ = select.select([sys.stdin], [], [], _PATIENCE_SECONDS)
    except (OSError, ValueError):
        ready = [sys.stdin]
    if not ready:
        output.notice("waiting for the prompt on stdin; close it, or add </dev/null, where none is to come")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise OptionError(f"the prompt on stdin is not {error.encoding} text: convert it first") from error
