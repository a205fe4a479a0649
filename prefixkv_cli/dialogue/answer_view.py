"""How an answer appears while it is made: as plain text, or in a terminal as Markdown above the live view."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.segment import Segment, Segments
from rich.text import Text

from prefixkv.generation.answer import rate
from prefixkv_cli import output
from prefixkv_cli.dialogue.live_view import Pace, cache_view
from prefixkv_cli.dialogue.reading_view import reading_shown
from prefixkv_cli.tables.cache_report import CacheReport

if TYPE_CHECKING:
    from collections.abc import Generator

    from prefixkv.chat.conversation import Conversation

_ANSWER_ROWS = 6
"""Lines of the screen that the answer has for itself while it grows."""


def show_answer(conversation: Conversation, pieces: Generator[str, None, None], plain: bool = False) -> None:
    """Show the pieces as they come; the whole answer is on stdout in the end, with one line break after it.

    Where stderr is a terminal the cache is shown meanwhile and taken away after it. Where stdout is the same terminal,
    the answer's last lines are part of what is redrawn, and the whole is printed once it is done: two writers would
    garble each other.

    Args:
        conversation: whose cache is shown.
        pieces: from `conversation.ask`; closed here.
        plain: whether to leave Markdown as it is, and show nothing but the answer.
    """
    with closing(pieces):
        if plain or output.is_quiet() or not output.is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
            _stream(pieces)
        elif output.is_terminal(sys.stdout):
            _redraw(conversation, pieces)
        else:
            with _LiveAnswer(conversation, with_answer=False) as live:
                _stream(live.watch(pieces))


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
    live = _LiveAnswer(conversation, with_answer=True)
    try:
        with live:
            for _ in live.watch(pieces):
                pass
    finally:
        output.stdout_console().print(_markdown(live.answer))


def _markdown(answer: str) -> RenderableType:
    # Where it is needed: a pipe is not to wait for the import of its parser.
    from rich.markdown import Markdown

    return Markdown(answer.strip(), hyperlinks=False)


class _LiveAnswer:
    """The view of the cache, redrawn in place now and then, and above it what the answer's end is just now."""

    def __init__(self, conversation: Conversation, with_answer: bool) -> None:
        self.answer = ""
        self._conversation, self._with_answer = conversation, with_answer
        self._console = output.stderr_console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._asked_at = self._first_at = time.perf_counter()
        self._first_seen = 0
        self._shows = ExitStack()

    def __enter__(self) -> _LiveAnswer:
        # The first drawing loads what it needs: here, where nobody waits for a token.
        self.answer = "reading"
        self._console.render_lines(self._picture(CacheReport.of(self._conversation)))
        self.answer = ""
        self._stop_reading = self._shows.enter_context(reading_shown(self._conversation))
        return self

    def __exit__(self, *error: object) -> None:
        self._shows.close()
        self._live.stop()

    def watch(self, pieces: Iterable[str]) -> Iterable[str]:
        """Hand the pieces on, redrawing between them."""
        pace = None
        for piece in pieces:
            self.answer += piece
            if pace is None:
                self._stop_reading()
            yield piece
            if pace is None:
                self._live.start()
                pace = Pace()
                self._first_at, self._first_seen = time.perf_counter(), self._seen_tokens()
            pace.draw(self._draw)

    def _seen_tokens(self) -> int:
        return max(layer.seen_tokens for layer in self._conversation.cache.layers)

    def _draw(self) -> None:
        speed = rate(1 + self._seen_tokens() - self._first_seen, time.perf_counter() - self._first_at)
        report = CacheReport.of(self._conversation, self._first_at - self._asked_at, speed)
        self._live.update(self._picture(report), refresh=True)

    def _picture(self, report: CacheReport) -> RenderableType:
        width, height = self._console.size
        rows = height - 2 - (_ANSWER_ROWS if self._with_answer else 0)
        view = cache_view(report, width, rows)
        if not self._with_answer:
            return view
        room = height - 2 - view.plain.count("\n") - 1
        return Group(self._end_of_answer(max(1, room)), Text(), view)

    def _end_of_answer(self, rows: int) -> Segments:
        lines = self._console.render_lines(_markdown(self.answer), pad=False)
        return Segments(segment for line in lines[-rows:] for segment in (*line, Segment.line()))
