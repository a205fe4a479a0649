"""What a command of the conversation is: what it takes, one line of help, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from prefixkv.home import names
from prefixkv_cli.dialogue.line_editor import Choices
from prefixkv_cli.dialogue.talk import Talk


@dataclass(frozen=True)
class SlashCommand:
    """One command.

    Attributes:
        argument: what follows the name, as the help shows it; empty where nothing may.
        summary: one line.
        run: what it does, with the argument's text.
        choices: what completion offers.
        needs: whether it makes no sense without the argument.
    """

    argument: str
    summary: str
    run: Callable[[Talk, str], None]
    choices: Choices | None = None
    needs: bool = False


def columns_of(rows: Sequence[tuple[str, str]]) -> Table:
    """Names on the left, what they mean on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def listed(folder: str) -> str:
    """The names that are saved in a folder of the home folder, in one line."""
    return ", ".join(names(folder)) or "none yet"
