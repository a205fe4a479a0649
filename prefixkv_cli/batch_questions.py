"""What a batch is asked: the lines of a file or of stdin, or pictures that all have the same questions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv_cli import output
from prefixkv_cli.batch_files import is_address, read_table_or_lines

if TYPE_CHECKING:
    from prefixkv.batch.lines import Line

STREAM = "-"
"""Stands for stdin among files that are read, and for stdout where answers are to go."""


@dataclass(frozen=True)
class Questions:
    """All that is asked.

    Attributes:
        lines: at least one.
        folder: what the pictures' relative paths start from.
        file: that the lines are from; None where they are from stdin or from options.
    """

    lines: list[Line]
    folder: Path
    file: Path | None = None


def read_questions(given: Sequence[str], prompts_file: str | None, prompts: Sequence[str]) -> Questions:
    """Read them, or make them.

    Args:
        given: the command's arguments: pictures where there are prompts, else one file of lines.
        prompts_file: value of `--prompts`.
        prompts: values of `--prompt`.

    Raises:
        OptionError: the arguments do not fit each other.
        PrefixKVError: a file cannot be read.
    """
    from prefixkv.batch.picture_lines import picture_lines
    from prefixkv.inputs.picture_source import looks_like_picture

    if prompts_file is not None and (given or prompts):
        raise OptionError("give either --prompts FILE, whose lines name their pictures, or pictures with --prompt TEXT")
    if prompts:
        return Questions(picture_lines(given, prompts), Path())
    named = [prompts_file] if prompts_file is not None else list(given)
    if not named:
        raise OptionError("there is nothing to answer: give a file of lines, or pictures with --prompt TEXT")
    if len(named) > 1 or looks_like_picture(named[0]) or (not is_address(named[0]) and Path(named[0]).is_dir()):
        raise OptionError(f"what is to be asked about {named[0]!r}? Pictures as arguments need --prompt TEXT")
    return _of_file(named[0])


def _of_file(name: str) -> Questions:
    from prefixkv.batch.lines import lines_of, read_lines

    if is_address(name):
        return Questions(read_table_or_lines(name), Path())
    if name.endswith(".parquet"):
        return Questions(read_table_or_lines(name), Path(name).parent, Path(name))
    if name != STREAM:
        return Questions(read_lines(Path(name)), Path(name).parent, Path(name))
    if sys.stdin is None or output.is_terminal(sys.stdin):
        raise PrefixKVError("the lines are read from stdin, and that is the keyboard: pipe them in")
    return Questions(lines_of(sys.stdin.buffer.read(), "stdin"), Path())
