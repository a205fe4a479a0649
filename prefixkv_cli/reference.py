"""The reference page of the command line, from the commands' own help: `python -m prefixkv_cli.reference FILE`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from prefixkv_cli.dialogue.slash_commands import COMMANDS, KEYS
from prefixkv_cli.help_panels import panel_of
from prefixkv_cli.program import app

_OPENING = """# The command line

Written by `make docs` from the commands' own help; change that, not this page.

Answers and data go to stdout; notices, progress and tables to stderr. `--json` prints one JSON value. An option
is taken from the command line, else from its environment variable, else from the settings file (`prefixkv settings`),
else it has its default; `prefixkv settings show` says which. `NO_COLOR` turns colour off; where output is no
terminal there is none. Saved profiles, configurations, contexts and the lines of conversations lie under
`PREFIXKV_HOME`, else in the platform's folder for user data.

Exit codes: 0 ok, 1 a known error (one line says what to do), 2 wrong usage, 3 the budget cannot be met, 4 out of
memory, 130 interrupted.

`chat --json-lines` prints one JSON object a line, each with its `event`: `start` once, with model, method, codec,
budget and the pictures' hashes; for every question `token` for each piece of text (together they are the answer),
`stats` every quarter of a second, and `turn` with what `--json` prints; `end` once, also after an error or Ctrl-C, with
the `exit_code`.
"""

_RULES = """A stopped answer is kept exactly as far as it was said, in the cache as on the screen; Ctrl-C once more, or
any error, takes the whole turn back, as `/undo` does: the cache is, bit for bit, what it was before. After `/budget`,
`/method`, `/codec`, `/config` or `/system` the next question reads the whole conversation again in one go; the cache is
never a mixture of two budgets.
"""


def reference() -> str:
    """The page, in Markdown; the same whatever terminal it is made in."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="prefixkv")
    sections = [_section(command, inner) for command, inner in _walk(root, context)]
    return "\n".join([_OPENING, *sections, _conversation()])


def _walk(command: Any, context: typer.Context) -> Iterator[tuple[Any, typer.Context]]:
    """A command and all below it, each with its context."""
    yield command, context
    for name in getattr(command, "commands", {}):
        inner = command.commands[name]
        yield from _walk(inner, typer.Context(inner, info_name=name, parent=context))


def _section(command: Any, context: typer.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    paragraphs = [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    texts = [part for part in paragraphs if not part.startswith("Example: ")]
    parts = [f"## {context.command_path}", *texts, f"```console\n$ {usage}\n```"]
    if examples:
        parts.append("Examples:\n\n```console\n" + "\n".join(f"$ {example}" for example in examples) + "\n```")
    parameters = [param for param in command.get_params(context) if param.name != "help"]
    for panel, listed in groupby(parameters, panel_of):
        rows = [_row(parameter) for parameter in listed]
        parts.append("\n".join([f"| {panel or ''} | | default | environment |", "|---|---|---|---|", *rows]))
    inner = getattr(command, "commands", {})
    if inner:
        rows = [f"| `{name}` | {_first_line(each)} |" for name, each in inner.items()]
        parts.append("\n".join(["| command | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _conversation() -> str:
    """The commands of a conversation."""
    rows = [
        f"| `{f'{name} {command.argument}'.strip()}` | {command.summary[0].upper()}{command.summary[1:]}. |"
        for name, command in COMMANDS.items()
    ]
    keys = "\n".join(f"* {line}" for line in KEYS)
    table = "\n".join(["| command | |", "|---|---|", *rows])
    return f"## In the conversation\n\n{keys}\n\n{_RULES}\n{table}\n"


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    value = (parameter.metavar or parameter.name).upper()
    names = (
        ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts]) if is_option else f"`{value}`"
    )
    if is_option and not parameter.is_flag:
        names += f" {value}"
    cells = [names, parameter.help or "", _default(parameter), _variable(parameter)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(parameter: Any) -> str:
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if default is None or isinstance(default, bool) or callable(default) else str(default)


def _variable(parameter: Any) -> str:
    return f"`{parameter.envvar}`" if parameter.envvar else ""


def _first_line(command: Any) -> str:
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference(), encoding="utf-8")
