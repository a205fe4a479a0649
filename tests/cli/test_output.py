"""Nothing from outside reaches a terminal as it is, wherever the program says something."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from prefixkv.errors import PrefixKVError
from prefixkv_cli import output
from prefixkv_cli.escaping import visible
from tests.cli.program import Run

CLI = Path(__file__).parents[2] / "prefixkv_cli"
HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\x9b31mc\u202etxt.exe\u2066d\re\x00f\x7fg\u2028h\udce9i"
HARMFUL = set("\x1b\x07\x9b\u202e\u2066\r\x00\x7f\u2028\udce9")


def _table(text: str) -> Table:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    return table


WAYS: dict[str, Callable[[str], object]] = {
    "notice": output.notice,
    "error": output.error,
    "show text": output.show,
    "show Text": lambda text: output.show(Text(text)),
    "show Markdown": lambda text: output.show(Markdown(text)),
    "show a table": lambda text: output.show(_table(text)),
    "write_text": output.write_text,
    "write_json": lambda text: output.write_json({text: [text]}),
    "stdout_console": lambda text: output.stdout_console().print(_table(text)),
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_control_characters_are_shown_not_obeyed(monkeypatch: pytest.MonkeyPatch, way: str, terminal: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(output, "is_terminal", lambda stream: terminal)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        WAYS[way](HOSTILE)
    said = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert not HARMFUL & set(said)
    assert "\\" in said
    if way in ("notice", "error") and not terminal:
        assert said.count("\n") == 1


def test_json_reads_back_as_what_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_json({"text": HOSTILE})
    assert json.loads(capsys.readouterr().out) == {"text": HOSTILE}


def test_good_text_stays() -> None:
    text = "Grüße, 図 😀 مرحبا\tend\n\\x1b"
    assert visible(text) == text


@pytest.mark.parametrize("path", sorted(CLI.rglob("*.py")), ids=lambda path: str(path.relative_to(CLI)))
def test_everything_that_is_said_goes_through_output(path: Path) -> None:
    """No other file prints, writes to a standard stream, or has a console of its own.

    The sign of what is waited for is there before the module `output` is, and says nothing from outside as it came.
    """
    if path.name in ("output.py", "waiting_sign.py"):
        return
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    forbidden = ("print", "Console", "rich.print", "typer.echo", "sys.stdout.write", "sys.stderr.write")
    assert not set(calls) & set(forbidden)


def test_stdout_that_is_closed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    output.flush()
    for say in (output.write_text, lambda text: output.write_json([text]), lambda text: output.stdout_console()):
        with pytest.raises(PrefixKVError, match="standard output is closed"):
            say("x")


def test_stderr_that_is_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    output.notice("x")
    output.error("x")
    output.show("x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["chat", f"{HOSTILE[:8]}.png", "-p", "x"],
        ["chat", "--model", f"./{HOSTILE[1:30]}", "-p", "x"],
        ["chat", "--context", HOSTILE[:8], "-p", "x"],
        ["chat", "--config", HOSTILE[:8], "-p", "x"],
        ["chat", "--budget", HOSTILE[:8], "-p", "x"],
        ["batch", HOSTILE[:8], "--out", "x"],
        ["configs", "path", HOSTILE[:8]],
        ["info", f"./{HOSTILE[1:30]}"],
        [HOSTILE[:8]],
    ],
)
def test_what_a_command_refuses_is_named_without_its_control_characters(run: Run, arguments: list[str]) -> None:
    done = run(*[argument.replace("\x00", "") for argument in arguments])
    assert done.returncode in (1, 2)
    assert not HARMFUL & set(done.stdout + done.stderr)
    assert done.stderr.count("\n") == 1
