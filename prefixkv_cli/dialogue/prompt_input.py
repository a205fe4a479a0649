"""The questions that are asked without a conversation: from options, or from a pipe."""

from __future__ import annotations

import select
import sys
from collections.abc import Sequence

from prefixkv.errors import OptionError
from prefixkv_cli import output

STDIN = "-"
"""Stands for what is piped in."""
_PATIENCE_SECONDS = 2.0


def read_prompts(options: Sequence[str], needed_for: str = "", stdin_is_taken: bool = False) -> list[str]:
    """The questions; none where there is to be a conversation.

    Text that is piped in is the question where no option gives one, or where one of them is `-`. Otherwise it is left
    alone: in `while read picture; do prefixkv chat "$picture" -p ...; done < list` it is the rest of the list.

    Args:
        options: values of `--prompt`; `-` stands for what is piped in.
        needed_for: the option that makes a conversation impossible; empty where one is possible.
        stdin_is_taken: whether stdin held a picture.

    Raises:
        OptionError: a question is blank, or there is none and no conversation is possible.
    """
    if any(not option.strip() for option in options):
        raise OptionError("the prompt is empty: give some text after --prompt")
    has_keyboard = output.is_terminal(sys.stdin)
    if options and STDIN not in options:
        return list(options)
    if options and (stdin_is_taken or has_keyboard or sys.stdin is None or options.count(STDIN) > 1):
        raise OptionError(
            f"--prompt {STDIN} reads the question from a pipe: pipe one in, once, and no picture beside it"
        )
    piped = "" if sys.stdin is None or stdin_is_taken or has_keyboard else _read_stdin().strip()
    if options and not piped:
        raise OptionError("the prompt on stdin is empty: pipe some text in")
    if options:
        return [piped if option == STDIN else option for option in options]
    if piped:
        return [piped]
    if needed_for:
        raise OptionError(f"{needed_for} answers a prompt: give --prompt, or pipe one in")
    if not has_keyboard and not (stdin_is_taken and output.is_terminal(sys.stderr)):
        raise OptionError("there is no prompt: give --prompt, pipe one in, or run in a terminal for a conversation")
    return []


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
