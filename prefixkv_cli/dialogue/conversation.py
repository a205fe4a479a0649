"""The conversation in a terminal: a line is asked, the answer streams, and so on."""

from __future__ import annotations

from prefixkv.errors import PrefixKVError
from prefixkv.home import home
from prefixkv_cli import output
from prefixkv_cli.dialogue.line_editor import LineEditor
from prefixkv_cli.dialogue.picture_input import dropped_pictures
from prefixkv_cli.dialogue.slash_commands import COMMANDS, run_command
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.failures import Failure


def converse(talk: Talk) -> None:
    """Talk until the user leaves.

    Args:
        talk: a conversation, new or saved.

    Raises:
        KeyboardInterrupt: Ctrl-C on an empty line.
    """
    editor = LineEditor({name: command.choices for name, command in COMMANDS.items()}, home() / "history")
    output.notice("ask about the picture; /help lists what else there is")
    while True:
        try:
            line = editor.read()
            if line in ("exit", "quit", "/quit"):
                return
            if line:
                take_line(talk, line)
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
