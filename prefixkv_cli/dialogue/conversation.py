"""The conversation in a terminal: a line is asked, the answer streams, and so on."""

from __future__ import annotations

from collections.abc import Callable

from prefixkv.errors import PrefixKVError
from prefixkv.home import home
from prefixkv_cli import output
from prefixkv_cli.dialogue.beginning import Beginning
from prefixkv_cli.dialogue.last_conversation import keep_last_conversation
from prefixkv_cli.dialogue.line_editor import CommandCompletion, LineEditor
from prefixkv_cli.dialogue.picture_input import dropped_pictures
from prefixkv_cli.dialogue.slash_commands import COMMANDS, run_command, show_help
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.failures import Failure
from prefixkv_cli.waiting_sign import end_sign

_GOODBYES = ("exit", "quit", "/quit", "/bye", "/exit")
"""Lines that leave; for them nobody waits for a model."""
_HELP = ("/help", "/?")
"""Nor for these."""


def converse(make: Callable[[], Talk], model: str, behind: bool) -> Talk | None:
    """Talk until the user leaves; however it ends, the conversation is kept for `chat --continue`.

    Args:
        make: loads the model and makes the conversation, new or saved.
        model: what is loaded, as the user calls it.
        behind: whether the prompt is there while it is loaded.

    Returns:
        The conversation; None where the user has left before it began.

    Raises:
        PrefixKVError: it cannot be made; other errors likewise.
        KeyboardInterrupt: Ctrl-C twice in a row on an empty line, or twice within an answer.
    """
    completions = {name: CommandCompletion(command.summary, command.choices) for name, command in COMMANDS.items()}
    editor = LineEditor(completions, home() / "history")
    end_sign()
    beginning = Beginning(make, model, editor, behind)
    try:
        _take_lines(beginning, editor)
    finally:
        talk = beginning.started
        # Who has only looked replaces nothing.
        if talk is not None and talk.has_new_turns():
            keep_last_conversation(talk.conversation)
    return talk


def _take_lines(beginning: Beginning, editor: LineEditor) -> None:
    is_warned = False
    while True:
        beginning.look()
        try:
            line = editor.read(beginning.status)
        except EOFError:
            return
        except KeyboardInterrupt:
            if is_warned:
                raise
            is_warned = True
            output.notice("press Ctrl-C again, or /bye, to leave")
            continue
        is_warned = False
        if line in _GOODBYES:
            return
        if line in _HELP:
            show_help()
            continue
        try:
            talk = beginning.talk()
        except KeyboardInterrupt:
            output.status("stopped waiting, nothing was done; the model is being loaded all the same")
            continue
        try:
            if line:
                take_line(talk, line)
            elif talk.lacks_picture():
                from prefixkv.demo import scene_path

                talk.attach([str(scene_path())])
        except EOFError:
            return
        # Whatever goes wrong in one line, the conversation is what it was before it, and goes on.
        except Exception as error:
            output.error(Failure.of(error).message)


def take_line(talk: Talk, line: str) -> None:
    """Carry out one line: a command, pictures, a question, or pictures with a question.

    Raises:
        PrefixKVError: it cannot be carried out; the conversation is what it was.
    """
    name = line.split(maxsplit=1)[0]
    if name in COMMANDS:
        run_command(talk, line)
        return
    pictures, question = dropped_pictures(line)
    if not pictures and name.startswith("/"):
        raise PrefixKVError(f"command {name!r} is not known: /help lists what there is")
    if pictures:
        talk.attach(pictures)
    if question:
        talk.ask(question)
