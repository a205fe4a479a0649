"""The one bar of commands that work through many things: what is done, of how many, and the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefixkv_cli import output

Update = Callable[..., None]


@contextmanager
def progress_bar(
    doing: str, *, total: int | None = None, shown: bool = True, in_bytes: bool = False
) -> Iterator[Update]:
    """A bar on stderr, gone at the end; nothing at all where stderr is no terminal, or nothing is to be said.

    Args:
        doing: what stands before the bar, in a word.
        total: how many things there are, if that is known beforehand.
        shown: whether this process is the one that shows.
        in_bytes: whether the things are bytes, which are shown as sizes.

    Yields:
        A function that takes `completed`, `total`, and `note`, a text behind the bar; each may be left out.
    """
    if not shown or output.is_quiet() or not output.is_terminal(sys.stderr):
        # Rich would print a line break for a bar that is switched off.
        yield lambda **changes: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    count: ProgressColumn = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn(doing), BarColumn(), count, TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeRemainingColumn(), console=output.stderr_console(), transient=True) as bar:
        task = bar.add_task(doing, total=total, note="")
        yield lambda **changes: bar.update(task, **changes)
