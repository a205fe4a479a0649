"""The program: its commands, its global options, and the one place where it ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer
from typer.completion import completion_init

import prefixkv
from prefixkv_cli import output
from prefixkv_cli.allocator import prepare_allocator
from prefixkv_cli.commands.batch import batch
from prefixkv_cli.commands.bench import bench
from prefixkv_cli.commands.chat import chat
from prefixkv_cli.commands.completion import VARIABLE, completion
from prefixkv_cli.commands.configs import app as configs
from prefixkv_cli.commands.contexts import app as contexts
from prefixkv_cli.commands.demo_scene import demo_scene
from prefixkv_cli.commands.env import env
from prefixkv_cli.commands.eval import evaluate
from prefixkv_cli.commands.info import info
from prefixkv_cli.commands.log import app as log
from prefixkv_cli.commands.models import models
from prefixkv_cli.commands.profile import app as profile
from prefixkv_cli.commands.save import save
from prefixkv_cli.commands.search import search
from prefixkv_cli.commands.settings import app as settings
from prefixkv_cli.failures import Failure
from prefixkv_cli.help_panels import PanelledTyper

app = PanelledTyper(
    name="prefixkv",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ANSWERS, BUDGETS, MEASURES, FACTS = "Answers", "Budgets", "Measurements", "Models and this machine"
"""The groups of commands in the help."""
app.command(rich_help_panel=ANSWERS)(chat)
app.command(rich_help_panel=ANSWERS)(batch)
app.command(rich_help_panel=ANSWERS)(save)
app.add_typer(contexts, name="contexts", rich_help_panel=ANSWERS)
app.add_typer(log, name="log", rich_help_panel=ANSWERS)
app.add_typer(profile, name="profile", rich_help_panel=BUDGETS)
app.command(rich_help_panel=BUDGETS)(search)
app.add_typer(configs, name="configs", rich_help_panel=BUDGETS)
app.command("eval", rich_help_panel=MEASURES)(evaluate)
app.command(rich_help_panel=MEASURES)(bench)
app.command(rich_help_panel=FACTS)(models)
app.command(rich_help_panel=FACTS)(info)
app.command(rich_help_panel=FACTS)(env)
app.add_typer(settings, name="settings", rich_help_panel=FACTS)
app.command(rich_help_panel=FACTS)(demo_scene)
app.command(rich_help_panel=FACTS)(completion)


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
    prepare_allocator()
    # What transformers logs is about its own defaults; what concerns the user is said by us, in one line.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    invocation = _Invocation()
    # What an earlier run in this process has said is not this run's.
    output.take_notices()
    if VARIABLE in os.environ:
        # Typer's shells, which answer the scripts of `completion`.
        completion_init()
    try:
        # None where a command came to its end; the number of a typer.Exit otherwise.
        code = typer.main.get_command(app).main(arguments, "prefixkv", standalone_mode=False, obj=invocation) or 0
        output.flush()
    except (output.ReaderLeftError, BrokenPipeError):
        # Whoever read us has all it wants. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        failure = Failure.of(error)
        if invocation.debug:
            traceback.print_exc()
        if failure.message:
            output.error(failure.message)
        return failure.exit_code
    return code
