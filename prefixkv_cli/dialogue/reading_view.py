"""How far a prompt is read: a bar over the layers with the time that is left, while nothing else can be shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from prefixkv_cli import output

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation

_PER_SECOND = 5
_BAR_COLUMNS = 30
_SHOWN_AFTER_SECONDS = 1.0
"""Before, there is no bar: a short prompt is read by then."""


class ReadingView:
    """What is shown just now; drawn again and again by Rich's own thread, while the model computes in another."""

    def __init__(self, conversation: Conversation, clock: Callable[[], float] = time.monotonic) -> None:
        """Note where every layer stands, and when the first of them has gone on.

        Args:
            conversation: a prompt of it is about to be read; one pass brings layer after layer to its end.
            clock: seconds.
        """
        self._conversation, self._clock = conversation, clock
        self._before = self._seen()
        self._begun = clock()
        self._first: float | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The line."""
        done, layers, now = self._done(), len(self._before), self._clock()
        if done and self._first is None:
            self._first = now
        if not done or now - self._begun < _SHOWN_AFTER_SECONDS:
            yield Text("reading ...", style="dim")
            return
        line = Table.grid(padding=(0, 1))
        left = ""
        if self._first is not None and done > 1:
            # The first layer has waited for the picture's own layers, which say nothing of the others.
            left = f"{(now - self._first) / (done - 1) * (layers - done):.0f} s left"
        bar = ProgressBar(total=layers, completed=done, width=_BAR_COLUMNS)
        line.add_row(Text("reading", style="dim"), bar, Text(f"{done}/{layers} layers {left}".rstrip(), style="dim"))
        yield line

    def _seen(self) -> list[int]:
        return [layer.seen_tokens for layer in self._conversation.cache.layers]

    def _done(self) -> int:
        return sum(now != before for now, before in zip(self._seen(), self._before, strict=True))


@contextmanager
def reading_shown(conversation: Conversation) -> Iterator[Callable[[], None]]:
    """Show it on stderr, gone at the end; nothing where that is no terminal, or nothing is to be said.

    Args:
        conversation: see `ReadingView`.

    Yields:
        A function that takes it away before.
    """
    if output.is_quiet() or not output.is_terminal(sys.stderr):
        yield lambda: None
        return
    console = output.stderr_console()
    view = ReadingView(conversation)
    live = Live(view, console=console, refresh_per_second=_PER_SECOND, transient=True, redirect_stdout=False)
    with live:
        yield live.stop
