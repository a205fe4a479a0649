"""All commands of a conversation by name, and what those do that show, keep and take back what was said."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group

from prefixkv.errors import PrefixKVError
from prefixkv.home import find_file, named_file, names
from prefixkv.policy.budget import format_bytes
from prefixkv_cli import output
from prefixkv_cli.dialogue.kept_view import kept_view
from prefixkv_cli.dialogue.line_editor import PATHS, PICTURES
from prefixkv_cli.dialogue.picture_input import SOURCES_HELP, dropped_pictures
from prefixkv_cli.dialogue.rule_commands import RULE_COMMANDS
from prefixkv_cli.dialogue.slash_command import SlashCommand, columns_of, listed
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.dialogue.transcript import write_transcript
from prefixkv_cli.reports.kept_file import write_kept_file


def run_command(talk: Talk, line: str) -> None:
    """Carry out a line that begins with a command's name.

    Raises:
        PrefixKVError: the command cannot be carried out; says why.
    """
    name, *rest = line.split(maxsplit=1)
    command, argument = COMMANDS[name], "".join(rest)
    if argument and not command.argument:
        raise PrefixKVError(f"{name} takes nothing after it: leave {argument!r} out")
    if command.needs and not argument:
        raise PrefixKVError(f"{name} needs {command.argument}: {command.summary}")
    command.run(talk, argument)


def show_help() -> None:
    """All commands and keys, on stderr."""
    rows = [(f"{name} {command.argument}".strip(), command.summary) for name, command in COMMANDS.items()]
    output.show(Group(columns_of(rows), *KEYS))


def _image(talk: Talk, argument: str) -> None:
    from prefixkv.inputs.picture_source import is_file

    dropped, rest = dropped_pictures(argument)
    talk.attach(dropped if dropped and not rest and not is_file(argument) else [argument])


def _images(talk: Talk, argument: str) -> None:
    pictures = talk.pictures()
    if not pictures:
        output.status("there is no picture yet: add one with /image, or drop a file here")
        return
    lines = []
    for number, (image, turn) in enumerate(pictures, start=1):
        when = "next question" if turn is None else f"turn {turn}"
        lines.append(f"{number}  {image.info.get('name', 'picture')}  {image.width} x {image.height}  {when}")
    output.show("\n".join(lines))


def _list(talk: Talk, argument: str) -> None:
    output.show(f"contexts: {listed('contexts')}\nconfigurations: {listed('configs')}")


def _edit(talk: Talk, argument: str) -> None:
    if talk.compose is None:
        raise PrefixKVError("/edit opens an editor, and there is no terminal")
    question = talk.compose(argument)
    if not question:
        output.status("nothing is asked: the text is empty")
        return
    talk.ask(question)


def _show(talk: Talk, argument: str) -> None:
    if argument and not argument.isdecimal():
        write_kept_file(talk.conversation, Path(argument).expanduser())
        return
    from prefixkv.chat.kept_patches import kept_patches

    pictures = kept_patches(talk.conversation)
    output.show(kept_view(pictures, int(argument) if argument else None, output.stderr_console().width))


def _undo(talk: Talk, argument: str) -> None:
    turn = talk.conversation.undo()
    pictures = " (its pictures go with the next question)" if turn.images else ""
    output.status(f"taken back: {_short(turn.prompt)}{pictures}")


def _retry(talk: Talk, argument: str) -> None:
    from prefixkv.chat.asking_again import ask_again

    asked = [turn.prompt for turn, _ in talk.conversation.history]
    pieces = ask_again(talk.conversation)
    output.status(f"asking again: {_short(asked[-1])}")
    talk.show(pieces)


def _clear(talk: Talk, argument: str) -> None:
    pictures = [image for image, _ in talk.pictures()]
    talk.conversation.clear()
    for picture in pictures:
        talk.conversation.attach(picture)
    output.status("a new conversation about the same pictures" if pictures else "a new conversation")


def _save(talk: Talk, argument: str) -> None:
    from prefixkv.chat.context import save_context

    path = named_file("contexts", argument)
    save_context(talk.conversation, path, argument)
    output.status(
        f"saved {argument} ({format_bytes(path.stat().st_size)}): go on with `prefixkv chat --context {argument}`"
    )


def _load(talk: Talk, argument: str) -> None:
    from prefixkv.chat.context import load_context

    now = talk.conversation
    talk.take(load_context(find_file("contexts", argument), now.loaded, now.sampling, output.notice))
    talk.conversation.max_pixels, talk.conversation.keep_marks = now.max_pixels, now.keep_marks
    turns, pictures = len(talk.conversation.history), len(talk.pictures())
    output.status(f"loaded {argument}: turns {turns}, pictures {pictures}; what was said before is put aside")


def _export(talk: Talk, argument: str) -> None:
    write_transcript(talk.conversation, Path(argument).expanduser())
    output.status(f"wrote {argument}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


KEYS = (
    'Enter asks. Alt-Enter, a \\ at the end, or a pair of """ makes more lines.',
    "Drop a picture here, or name it in a question. Tab completes.",
    "Ctrl-C stops an answer and keeps what was said; twice on an empty line it leaves.",
)

COMMANDS: dict[str, SlashCommand] = {
    "/help": SlashCommand("", "this list; /? is the same", lambda talk, argument: show_help()),
    "/image": SlashCommand("PATH", f"add a picture: {SOURCES_HELP}", _image, PICTURES, needs=True),
    "/images": SlashCommand("", "the pictures so far", _images),
    **RULE_COMMANDS,
    "/list": SlashCommand("", "saved contexts and configurations", _list),
    "/stats": SlashCommand("", "what the cache holds in all", lambda talk, _: talk.show_totals()),
    "/layers": SlashCommand("", "what it holds, layer by layer", lambda talk, _: talk.show_layers()),
    "/show": SlashCommand(
        "FILE",
        "which patches are kept: FILE.html or FILE.png; LAYER or alone: here, the mean of the layers",
        _show,
        PATHS,
    ),
    "/edit": SlashCommand("TEXT", "write a long question in your editor (EDITOR); Ctrl-G edits the line", _edit),
    "/retry": SlashCommand("", "ask the last question again", _retry),
    "/undo": SlashCommand("", "take the last turn back", _undo),
    "/clear": SlashCommand("", "forget the turns, keep the pictures", _clear),
    "/save": SlashCommand("NAME", "save the context, to go on from later", _save, needs=True),
    "/load": SlashCommand("NAME", "go on from a saved context", _load, lambda: names("contexts"), needs=True),
    "/export": SlashCommand("FILE", "write the turns to FILE.md or FILE.json", _export, PATHS, needs=True),
    "/exit": SlashCommand(
        "", "leave (so do /bye and Ctrl-D); `prefixkv chat --continue` goes on", lambda talk, _: _leave()
    ),
}
"""All commands by name."""


def _leave() -> None:
    raise EOFError
