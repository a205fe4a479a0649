"""`prefixkv log`: questions and answers that were kept."""

from __future__ import annotations

from datetime import datetime
from operator import itemgetter
from typing import Annotated, Any

import typer

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.policy.budget import format_bytes
from prefixkv_cli import options, output
from prefixkv_cli.answer_log.store import (
    LoggedAnswer,
    find_answer,
    log_file,
    newest_answers,
    remove_answers,
)
from prefixkv_cli.help_panels import PanelledTyper
from prefixkv_cli.settings.file import set_setting
from prefixkv_cli.tables.saved_table import show_saved

app = PanelledTyper(
    help="List, show, search and remove questions and answers that `chat` has logged.\n\nExample: prefixkv log list",
    no_args_is_help=True,
)

LimitOption = Annotated[int, typer.Option("--limit", "-n", help="The newest so many.")]
_SHOWN = 60
"""Characters of a question or an answer in a list."""


@app.command("list")
def list_answers(limit: LimitOption = 20, json: options.JsonOption = False) -> None:
    """The newest answers: number, time, model, question, answer.

    Example: prefixkv log list -n 5
    """
    _show(limit, "", json)


@app.command()
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the question or the answer has in it.")],
    limit: LimitOption = 20,
    json: options.JsonOption = False,
) -> None:
    """The newest answers that have a text in them or in their question.

    Example: prefixkv log search "red circle"
    """
    if not text.strip():
        raise OptionError("the text is empty: say what to look for")
    _show(limit, text, json)


@app.command()
def show(
    number: Annotated[int | None, typer.Argument(metavar="NUMBER", help="As in the list; else the newest.")] = None,
    json: options.JsonOption = False,
) -> None:
    """One question and answer, whole.

    Example: prefixkv log show 12
    """
    entry = find_answer(number)
    if json:
        output.write_document("logged-answer", {"entry": entry.as_dict()})
        return
    pictures = "".join(f"picture {each['name']} (sha256 {each['sha256'][:16]})\n" for each in entry.pictures)
    output.write_text(
        f"answer {entry.id} of {_local(entry.time)}: model {entry.model}, method {entry.method}, codec {entry.codec}, "
        f"budget {entry.budget}: {format_bytes(entry.kept_bytes)} of {format_bytes(entry.full_bytes)} kept\n"
        f"{entry.new_tokens} tokens, {entry.finish_reason}; first token {entry.prefill_seconds:.2f} s, the others "
        f"{entry.decode_seconds:.2f} s\n{pictures}> {entry.prompt}\n{entry.answer.strip()}\n"
    )


@app.command()
def path() -> None:
    """The file of the log, whether or not it is there: an SQLite database with the table `answers`.

    Example: prefixkv log path
    """
    output.write_text(f"{log_file()}\n")


@app.command()
def on() -> None:
    """Log answers from now on; the same as `prefixkv settings set log true`.

    Example: prefixkv log on
    """
    set_setting("log", "true")
    output.notice(f"questions and answers are logged in {log_file()}")


@app.command()
def off() -> None:
    """Log no answers from now on; what is in the log stays until it is removed.

    Example: prefixkv log off
    """
    set_setting("log", "false")
    output.notice("questions and answers are not logged; `prefixkv log remove --all` removes what there is")


@app.command()
def remove(
    numbers: Annotated[list[int] | None, typer.Argument(metavar="NUMBER", help="As in the list.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all answers.", allow_from_autoenv=False)] = False,
) -> None:
    """Remove answers from the log; their text is overwritten.

    Example: prefixkv log remove 12 13
    """
    if bool(numbers) == everything:
        raise OptionError("give either the numbers of answers, as in `prefixkv log list`, or --all")
    removed = remove_answers(None if everything else numbers)
    if numbers and removed < len(set(numbers)):
        raise PrefixKVError(f"{removed} of {len(set(numbers))} answers were in the log, and are removed")
    output.notice(f"removed {removed} from {log_file()}")


def _show(limit: int, text: str, json: bool) -> None:
    if limit < 1:
        raise OptionError(f"limit {limit} is too small: give 1 or more")
    entries = newest_answers(limit, text)
    if json:
        output.write_document("log", {"answers": [entry.as_dict() for entry in entries]})
    elif not entries:
        output.notice("nothing is found" if text else f"the log is empty ({log_file()})")
    else:
        show_saved([_row(entry) for entry in entries], {name: itemgetter(name) for name in _ROW})


_ROW = ("number", "time", "model", "question", "answer")


def _row(entry: LoggedAnswer) -> dict[str, Any]:
    cells = (str(entry.id), _local(entry.time), entry.model, _short(entry.prompt), _short(entry.answer))
    return dict(zip(_ROW, cells, strict=True))


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
