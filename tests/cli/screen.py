"""A real pseudo-terminal with a screen that can be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.cli.program import ENVIRONMENT, PROGRAM

pytest.importorskip("termios", reason="there is no pseudo-terminal on this platform")

READY = ">>> "
_GAP = r"(?:\x1b\[[\d;]*m|\s)+"


class Terminal:
    """A program that runs in a terminal of its own, and what the terminal shows."""

    def __init__(
        self,
        arguments: list[str],
        columns: int = 100,
        rows: int = 30,
        cursor_reports: bool = False,
        **environment: str,
    ) -> None:
        """Start the program.

        Args:
            arguments: of the command line.
            columns: of the terminal.
            rows: likewise.
            cursor_reports: whether the terminal says where its cursor is when it is asked, as most do; what stands at
                the bottom is drawn only by such a one.
            environment: variables beside those of all tests.
        """
        if cursor_reports:
            environment = {"PROMPT_TOOLKIT_NO_CPR": "0", **environment}
        self._screen = pyte.HistoryScreen(columns, rows, history=2000, ratio=0.5)
        self._stream = pyte.Stream(self._screen)
        self.raw = ""
        self.child: pexpect.spawn[str] = pexpect.spawn(
            PROGRAM[0],
            [*PROGRAM[1:], *arguments],
            encoding="utf-8",
            timeout=400,
            dimensions=(rows, columns),
            env={**ENVIRONMENT, **environment},
        )
        self.child.logfile_read = self
        if cursor_reports:
            self._screen.write_process_input = self.child.send

    def write(self, text: str) -> None:
        """Called by pexpect with all that the program prints."""
        self.raw += text
        self._stream.feed(text)

    def flush(self) -> None:
        """Called by pexpect."""

    @property
    def lines(self) -> list[str]:
        """What the screen shows now, and above it what has scrolled away; without blank ends of lines."""
        above = [
            "".join(line[column].data for column in range(self._screen.columns)).rstrip()
            for line in self._screen.history.top
        ]
        return above + [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str) -> Any:
        """Read until a pattern is there, and return its match."""
        self.child.expect(pattern)
        return self.child.match

    def wait_for_prompt(self) -> None:
        """Read until line editing has begun."""
        self.child.expect(r"\x1b\[\?2004h")
        self.child.expect(">>>")

    def wait_until_loaded(self) -> None:
        """Read until the model is there: the header stands above the prompt."""
        # The header's last line may be broken between any two words, with the colour's codes between the two halves.
        self.wait_for(_GAP.join(("lists", "what", "else")))
        self.wait_for_prompt()

    def enter(self, line: str) -> None:
        """Type a line and Enter, then read until the next prompt is there."""
        self.child.send(line + "\r")
        self.wait_for_prompt()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.child.sendintr()

    def end(self) -> int | None:
        """Read to the end; the exit status."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


def home_of(folder: Path) -> dict[str, str]:
    """The environment of a user whose files lie in a folder."""
    return {"PREFIXKV_HOME": str(folder)}
