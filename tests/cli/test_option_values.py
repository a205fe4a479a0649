"""Values that need no conversion are those that typer's conversion would give."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from prefixkv_cli.help_panels import PanelledTyper


def command(
    text: str = "a",
    number: int = 3,
    share: float = 0.5,
    flag: bool = False,
    words: Annotated[list[str] | None, typer.Option(metavar="VALUE")] = None,
    sizes: Annotated[list[int] | None, typer.Option(metavar="VALUE")] = None,
    path: Path | None = None,
    limited: Annotated[int, typer.Option(max=9, metavar="N")] = 4,
    rest: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    """Print what arrives, with its kinds."""
    print(repr((text, number, share, flag, words, sizes, path, limited, rest)))


@pytest.mark.parametrize(
    "given",
    [
        (),
        ("--text", "7", "--number", "7", "--share", "7", "--flag"),
        ("--words", "one", "--words", "two words", "--sizes", "1", "--sizes", "2", "--path", "a/b"),
        ("x", "y", "--limited", "9"),
        ("--limited", "10"),
        ("--number", "7.5"),
        ("--share", "half"),
    ],
)
def test_what_a_command_is_given_is_what_typer_would_give(given: tuple[str, ...]) -> None:
    def run(made: Any) -> tuple[int, str]:
        made.command()(command)
        done = CliRunner().invoke(made, given, env={"COLUMNS": "200"})
        return done.exit_code, done.stdout

    assert run(PanelledTyper()) == run(typer.Typer())
