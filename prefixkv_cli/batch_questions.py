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


def read_questions(
    given: Sequence[str], prompts_file: str | None, prompts: Sequence[str], data: str | None = None
) -> Questions:
    """Read them, or make them.

    Args:
        given: the command's arguments: pictures where there are prompts, else one file of lines.
        prompts_file: value of `--prompts`.
        prompts: values of `--prompt`.
        data: value of `--data`.

    Raises:
        OptionError: the arguments do not fit each other.
        PrefixKVError: a file cannot be read.
    """
    from prefixkv.batch.picture_lines import picture_lines
    from prefixkv.inputs.picture_source import looks_like_picture

    if data is not None:
        if given or prompts or prompts_file is not None:
            raise OptionError("--data draws its own pictures and questions: give no file, picture or prompt with it")
        return Questions(_drawn_lines(data), Path())
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


def _drawn_lines(data: str) -> list[Line]:
    """A line for every drawn question; its id says what is right. Second questions are left out, and that is said.

    Raises:
        OptionError: the data are not drawn.
    """
    from prefixkv.batch.lines import Line, line_digest
    from prefixkv.demo import SHAPES
    from prefixkv.demo.documents.questions import document_set
    from prefixkv.demo.questions import question_set
    from prefixkv.evaluation.data import DataSource

    is_drawn = data.partition(":")[0] in ("scenes", "documents")
    source = DataSource.parse(data) if is_drawn else None
    if source is None or source.count is None:
        raise OptionError(f"data {data!r} is not drawn: give scenes[:N[:SEED]] or documents[:N[:SEED]]")
    asked = (
        [(f"drawn:{kind}:{seed}", question) for seed, kind, question in document_set(source.count, source.seed)]
        if source.kind == "documents"
        else [(f"drawn:{SHAPES}:{scene.seed}", question) for scene, question in question_set(source.count, source.seed)]
    )
    first = [(picture, question) for picture, question in asked if not question.context]
    if len(first) < len(asked):
        output.notice(f"{len(asked) - len(first)} of {len(asked)} questions are second ones, which are not asked here")
    return [
        Line(
            number,
            line_digest(question.question, [picture], {}),
            question.question,
            (picture,),
            {"kind": question.kind, "right": question.answer},
        )
        for number, (picture, question) in enumerate(first, start=1)
    ]


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
