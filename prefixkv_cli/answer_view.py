"""How an answer appears while it is made: silently, as plain text, or in a terminal with the table of cache usage."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from prefixkv_cli import output
from prefixkv_cli.usage_table import BLOCK_COLUMNS, usage_line, usage_table

if TYPE_CHECKING:
    from collections.abc import Generator

    from prefixkv.chat import Conversation

_REFRESH_SECONDS = 0.1
_TABLE_EXTRA_ROWS = 5
_ANSWER_ROWS = 3


def show_answer(conversation: Conversation, pieces: Generator[str, None, None]) -> None:
    """Show the pieces as they come; the whole answer is on stdout in the end, with one line break after it.

    Where stderr is a terminal the table is shown meanwhile and taken away after it. Where stdout is the same terminal,
    the answer's last lines are part of what is redrawn, and the whole is printed once it is done: two writers would
    garble each other.

    Args:
        conversation: whose cache usage is shown.
        pieces: from `conversation.ask`; closed here.
    """
    with closing(pieces):
        if not output.is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
            _stream(pieces)
        elif output.is_terminal(sys.stdout):
            _redraw(conversation, pieces)
        else:
            with _LiveTable(conversation, with_answer=False) as table:
                _stream(table.watch(pieces))


def _stream(pieces: Iterable[str]) -> None:
    """Plain text on stdout, at once; white space is held back until more text follows it."""
    held = ""
    try:
        for piece in pieces:
            text = held + piece
            said = text.rstrip()
            held = text[len(said) :]
            if said:
                output.write_text(said)
    finally:
        output.write_text("\n")


def _redraw(conversation: Conversation, pieces: Iterable[str]) -> None:
    table = _LiveTable(conversation, with_answer=True)
    try:
        with table:
            for _ in table.watch(pieces):
                pass
    finally:
        output.write_text(table.answer.rstrip() + "\n")


class _LiveTable:
    """The table, redrawn in place now and then, and above it what the answer's end is just now."""

    def __init__(self, conversation: Conversation, with_answer: bool) -> None:
        self.answer = ""
        self._conversation, self._with_answer = conversation, with_answer
        self._console = output.stderr_console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._drawn_at = 0.0

    def __enter__(self) -> _LiveTable:
        self._live.start()
        self._draw(Text("reading ...", style="dim"))
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def watch(self, pieces: Iterable[str]) -> Iterable[str]:
        """Hand the pieces on, redrawing between them."""
        started_at, started_tokens = None, 0
        for piece in pieces:
            now, tokens = time.perf_counter(), self._seen_tokens()
            if started_at is None:
                started_at, started_tokens = now, tokens
            self.answer += piece
            yield piece
            if now - self._drawn_at >= _REFRESH_SECONDS:
                self._draw(self._picture((tokens - started_tokens) / (now - started_at) if now > started_at else None))

    def _seen_tokens(self) -> int:
        return max((layer.seen_tokens for layer in self._conversation.usage().layers), default=0)

    def _draw(self, picture: RenderableType) -> None:
        self._live.update(picture, refresh=True)
        self._drawn_at = time.perf_counter()

    def _picture(self, tokens_per_second: float | None) -> RenderableType:
        usage = self._conversation.usage()
        width, height = self._console.size
        room = height - _TABLE_EXTRA_ROWS - (_ANSWER_ROWS if self._with_answer else 0)
        below: RenderableType
        if room * (width // BLOCK_COLUMNS) >= len(usage.layers):
            below = usage_table(usage, tokens_per_second, max_rows=max(1, room))
            rows = -(-len(usage.layers) // max(1, -(-len(usage.layers) // room))) + _TABLE_EXTRA_ROWS
        else:
            below, rows = Text(usage_line(usage, tokens_per_second), no_wrap=True, overflow="ellipsis"), 2
        if not self._with_answer:
            return below
        lines = Text(self.answer).wrap(self._console, width)
        return Group(Text("\n").join(lines[-max(1, height - rows) :]), Text(), below)
