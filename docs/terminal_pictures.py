"""The README's terminal pictures: the program runs in a real pseudo-terminal, and its screen becomes an SVG file.

`make pictures` runs it; it asks the bundled demo model.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 96, 40
PROGRAM = [sys.executable, "-m", "prefixkv_cli"]
SCENE = Path(__file__).parents[1] / "prefixkv" / "demo" / "scene.png"
COLOURS = {"brown": "yellow", "default": ""}
"""Names that pyte and Rich spell differently."""


class Recorder:
    """A program in a terminal, and what the terminal shows."""

    def __init__(self, arguments: list[str], home: str) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.Stream(self.screen)
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        self.child: pexpect.spawn[str] = pexpect.spawn(
            PROGRAM[0],
            [*PROGRAM[1:], *arguments],
            encoding="utf-8",
            timeout=120,
            dimensions=(ROWS, COLUMNS),
            cwd=str(SCENE.parent),
            env={**environment, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "PREFIXKV_HOME": home},
        )
        self.child.logfile_read = self

    def write(self, text: str) -> None:
        """Called by pexpect with all that the program prints."""
        self._stream.feed(text)

    def flush(self) -> None:
        """Called by pexpect."""

    def enter(self, line: str) -> None:
        """Type a line, and wait for the next prompt."""
        self.child.send(line + "\r")
        self.wait_for_prompt()

    def wait_for_prompt(self) -> None:
        """Read until line editing has begun."""
        self.child.expect(r"\x1b\[\?2004h")
        self.child.expect(">>>")

    def save(self, path: Path, typed: str) -> None:
        """Write the screen as it is, below the command that led to it."""
        rows = [self._row(number) for number in range(ROWS)]
        while rows and not rows[-1].plain.strip():
            rows.pop()
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text(f"$ {typed}", style="bold"))
        for row in rows:
            console.print(row, no_wrap=True)
        console.save_svg(str(path), title="prefixkv")

    def _row(self, number: int) -> Text:
        row = Text()
        for column in range(COLUMNS):
            cell = self.screen.buffer[number][column]
            colour = COLOURS.get(cell.fg, cell.fg)
            colour = f"#{colour}" if re.fullmatch("[0-9a-f]{6}", colour) else colour
            row.append(cell.data, style=f"{'bold ' if cell.bold else ''}{colour}".strip())
        row.rstrip()
        return row


def live_view(folder: Path, home: str) -> None:
    """The view of the cache in the middle of an answer."""
    words = ["chat", SCENE.name, "--model", "demo", "-p", "Describe the image.", "--budget", "10%"]
    recorder = Recorder(words, home)
    for _ in range(3):
        recorder.child.expect("tokens/s")
    recorder.save(
        folder / "live_view.svg", 'prefixkv chat scene.png --model demo -p "Describe the image." --budget 10%'
    )
    recorder.child.close(force=True)


def conversation(folder: Path, home: str) -> None:
    """A conversation with commands."""
    recorder = Recorder(["chat", SCENE.name, "--model", "demo", "--budget", "20%"], home)
    recorder.child.expect("what else there is")
    recorder.wait_for_prompt()
    for line in (
        "How many objects are there?",
        "/layers",
        "/budget 300KiB",
        "Which object is in row 1, column 2?",
        "/save desk",
    ):
        recorder.enter(line)
    recorder.save(folder / "conversation.svg", "prefixkv chat scene.png --model demo --budget 20%")
    recorder.child.close(force=True)


def main(folder: Path) -> None:
    """Make all pictures.

    Args:
        folder: where to write them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        live_view(folder, home)
        conversation(folder, home)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
