"""The code blocks of a page, what marks them, and what happens when a reader follows the page from top to bottom."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from prefixkv_cli.program import app
from tests.cli.program import ENVIRONMENT, PROGRAM, run_here

ROOT = Path(__file__).parents[2]
MARKS = ("needs-network", "needs-gpu", "needs-terminal")
"""What may stand in a comment before a block that cannot be run here: its commands are parsed only."""
_BLOCK = re.compile(r"^(?:<!-- ([\w -]+) -->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        mark: one of `MARKS`, or None where the block is run.
        language: `console`, `python`, ...
        title: name of the file that the block is the content of, if any.
        text: what stands between the fences.
    """

    mark: str | None
    language: str
    title: str | None
    text: str

    def commands(self) -> list[str]:
        """The command lines of a console block: what follows each `$ `, lines that end in a backslash joined."""
        joined = self.text.replace("\\\n", "")
        return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    found = []
    for mark, language, title, text in _BLOCK.findall(page.read_text(encoding="utf-8")):
        assert not mark or mark in MARKS, f"{page.name}: {mark!r} is no mark"
        found.append(Block(mark or None, language, title or None, text))
    return found


def prefixkv_commands(command: str) -> Iterator[list[str]]:
    """The words of every call of `prefixkv` in a command line, without those of pipes and redirections."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "|"]:
        if not set(word) <= set("|<>&;"):
            words.append(word)
        else:
            if words and words[0] == "prefixkv":
                yield words[1:]
            # What follows > or < is a file's name, not a command.
            words = [] if word in ("|", "&&", ";") else ["file"]


def parse(words: list[str]) -> None:
    """Have the command line take these words apart; an unknown command, option or value raises."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="prefixkv")
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        name = rest.pop(0)
        command = command.commands[name]  # type: ignore[attr-defined]
        if not hasattr(command, "commands"):
            context = command.make_context(name, rest, parent=context)
            return
    assert not rest or rest[0].startswith("-"), f"there is no command {rest[0]!r}"
    command.make_context(command.name, rest, parent=None)


def follow(page: Path, folder: Path) -> str:
    """Do what a page says, in a folder: write its titled blocks, run its commands, then all its Python in one go.

    Returns:
        what the Python blocks have printed.
    """
    (folder / "bin").mkdir()
    program = folder / "bin" / "prefixkv"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {
        **ENVIRONMENT,
        "PREFIXKV_HOME": str(folder / "home"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{ENVIRONMENT['PATH']}",
        "PYTHONWARNINGS": "error::FutureWarning",
    }
    python = []
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "console" and block.mark is None:
            for command in block.commands():
                _run(command, folder, environment)
        elif block.language == "python" and block.mark is None:
            python.append(block.text)
    if not python:
        return ""
    words = [sys.executable, "-c", "\n".join(python)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(command: str, folder: Path, environment: dict[str, str]) -> None:
    """A command without pipes and patterns runs in this process, where torch is loaded already."""
    calls = list(prefixkv_commands(command))
    if len(calls) == 1 and command.startswith("prefixkv ") and not set("|<>*$&;") & set(command):
        done = run_here(*calls[0], cwd=folder, env=environment)
    else:
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
