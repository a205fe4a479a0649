"""The program: its commands, its global options, and the one place where it ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

import prefixkv
from prefixkv_cli import output
from prefixkv_cli.allocator import prepare_allocator
from prefixkv_cli.background import end_process
from prefixkv_cli.collector import collect_seldom
from prefixkv_cli.command_table import COMPLETE_VARIABLE, ProgramGroup
from prefixkv_cli.failures import Failure
from prefixkv_cli.waiting_sign import end_sign, show_start

app = typer.Typer(
    name="prefixkv",
    cls=ProgramGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Invocation:
    """Global options of this run; stays readable when the command ends in an error."""

    debug = False


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


def main(arguments: list[str] | None = None) -> None:
    """Run the program and exit.

    Args:
        arguments: instead of the command line's.
    """
    words = sys.argv[1:] if arguments is None else arguments
    show_start(words)
    collect_seldom()
    prepare_allocator()
    # What transformers logs is about its own defaults; what concerns the user is said by us, in one line.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    end_process(_run(words))


def _run(arguments: list[str]) -> int:
    invocation = _Invocation()
    # What an earlier run in this process has said is not this run's.
    output.take_notices()
    if COMPLETE_VARIABLE in os.environ:
        from typer import _completion_classes

        # Typer's shells, which answer the scripts of `completion`. For markup, which our help has not, they load Rich.
        _completion_classes._sanitize_help_text = lambda text: text
        _completion_classes.completion_init()
    try:
        # None where a command came to its end; the number of a typer.Exit otherwise.
        code = typer.main.get_command(app).main(arguments, "prefixkv", standalone_mode=False, obj=invocation) or 0
        output.flush()
        end_sign()
    except (output.ReaderLeftError, BrokenPipeError):
        # Whoever read us has all it wants. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        end_sign()
        failure = Failure.of(error)
        if invocation.debug:
            traceback.print_exc()
        if failure.message:
            output.error(failure.message)
        return failure.exit_code
    return code
