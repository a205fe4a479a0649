"""The program, and the one place where it ends."""

from __future__ import annotations

import os
import sys

from prefixkv_cli import output
from prefixkv_cli.allocator import prepare_allocator
from prefixkv_cli.background import end_process
from prefixkv_cli.collector import collect_seldom
from prefixkv_cli.failures import Failure
from prefixkv_cli.remote.short_question import answer_shortly
from prefixkv_cli.waiting_sign import end_sign, show_start


class _Invocation:
    """Global options of this run; stays readable when the command ends in an error."""

    debug = False


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
    try:
        code = 0 if answer_shortly(arguments) else _run_command(arguments, invocation)
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
            import traceback

            traceback.print_exc()
        if failure.message:
            output.error(failure.message)
        return failure.exit_code
    return code


def _run_command(arguments: list[str], invocation: _Invocation) -> int:
    # Here, since a question that is asked in short needs no parser.
    from prefixkv_cli.program import run_command

    return run_command(arguments, invocation)
