"""The commands under their global options, as typer has them: what reads the words of a command line."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import prefixkv
from prefixkv_cli import output
from prefixkv_cli.command_table import COMPLETE_VARIABLE, ProgramGroup

app = typer.Typer(
    name="prefixkv",
    cls=ProgramGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.write_text(f"prefixkv {prefixkv.__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _globals(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Talk to pictures on a compressed KV cache.

    Example: prefixkv chat photo.jpg -p "What is on the table?" --budget 20%

    Example: prefixkv chat photo.jpg --model llava
    """
    context.obj.debug = debug
    if context.invoked_subcommand is None:
        output.write_text(context.get_help() + "\n")


def run_command(arguments: list[str], invocation: Any) -> int:
    """Run the command that the words name, or complete them for a shell.

    Args:
        arguments: the words.
        invocation: whose `debug` becomes what the global option says.

    Returns:
        0 where the command came to its end; the number of a `typer.Exit` otherwise.
    """
    if COMPLETE_VARIABLE in os.environ:
        from typer import _completion_classes

        # Typer's shells, which answer the scripts of `completion`. For markup, which our help has not, they load Rich.
        _completion_classes._sanitize_help_text = lambda text: text
        _completion_classes.completion_init()
    return typer.main.get_command(app).main(arguments, "prefixkv", standalone_mode=False, obj=invocation) or 0
