"""The commands of a conversation: each a name, what it takes, one line of help, and what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from prefixkv.errors import PrefixKVError
from prefixkv.home import find_file, named_file, names
from prefixkv.methods.table import METHODS, method_names
from prefixkv.policy.budget import BUDGET_HELP, format_bytes
from prefixkv.policy.codec import CODECS
from prefixkv.profiles.config import PrefixConfig
from prefixkv_cli import output
from prefixkv_cli.dialogue.answer_settings import SETTINGS, changed, described
from prefixkv_cli.dialogue.line_editor import PATHS, PICTURES, Choices
from prefixkv_cli.dialogue.picture_input import SOURCES_HELP, dropped_pictures
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.dialogue.transcript import write_transcript
from prefixkv_cli.reports.kept_file import write_kept_file


@dataclass(frozen=True)
class SlashCommand:
    """One command.

    Attributes:
        argument: what follows the name, as the help shows it; empty where nothing may.
        summary: one line.
        run: what it does, with the argument's text.
        choices: what completion offers.
        needs: whether it makes no sense without the argument.
    """

    argument: str
    summary: str
    run: Callable[[Talk, str], None]
    choices: Choices | None = None
    needs: bool = False


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


def _help(talk: Talk, argument: str) -> None:
    rows = [(f"{name} {command.argument}".strip(), command.summary) for name, command in COMMANDS.items()]
    output.show(Group(_columns(rows), *KEYS))


def _columns(rows: Sequence[tuple[str, str]]) -> Table:
    """Names on the left, what they mean on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _image(talk: Talk, argument: str) -> None:
    from prefixkv.inputs.picture_source import is_file

    dropped, rest = dropped_pictures(argument)
    talk.attach(dropped if dropped and not rest and not is_file(argument) else [argument])


def _images(talk: Talk, argument: str) -> None:
    pictures = talk.pictures()
    if not pictures:
        output.notice("there is no picture yet: add one with /image, or drop a file here")
        return
    lines = []
    for number, (image, turn) in enumerate(pictures, start=1):
        when = "next question" if turn is None else f"turn {turn}"
        lines.append(f"{number}  {image.info.get('name', 'picture')}  {image.width} x {image.height}  {when}")
    output.show("\n".join(lines))


def _budget(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        output.notice(f"the budget is {conversation.cache.budget.text}; give {BUDGET_HELP}")
        return
    conversation.change_budget(argument, conversation.cache.method, conversation.cache.codec)
    _say_changed(talk, f"budget {argument}")


def _method(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        current = conversation.cache.method.name
        unread = "of an installed package"
        summaries = {name: METHODS[name].summary if name in METHODS else unread for name in method_names()}
        output.show(_columns([(f"{'*' if name == current else ' '} {name}", text) for name, text in summaries.items()]))
        return
    conversation.change_budget(conversation.cache.budget, argument, conversation.cache.codec)
    _say_changed(talk, f"method {argument}")


def _codec(talk: Talk, argument: str) -> None:
    conversation = talk.conversation
    if not argument:
        current = conversation.cache.codec.name
        rows = [(f"{'*' if name == current else ' '} {name}", codec.summary) for name, codec in CODECS.items()]
        output.show(_columns(rows))
        return
    conversation.change_budget(conversation.cache.budget, conversation.cache.method, argument)
    _say_changed(talk, f"codec {argument}")


def _config(talk: Talk, argument: str) -> None:
    if not argument:
        output.show(f"configurations: {_listed('configs')}")
        return
    talk.conversation.change_budget(PrefixConfig.load(find_file("configs", argument)))
    _say_changed(talk, f"configuration {argument}")


def _say_changed(talk: Talk, what: str) -> None:
    again = ": the next question reads the conversation again" if talk.conversation.history else ""
    output.notice(f"{what}{again}")


def _system(talk: Talk, argument: str) -> None:
    if not argument and not talk.conversation.system:
        output.notice("there is no system text; /system TEXT sets one")
        return
    talk.conversation.instruct(argument)
    _say_changed(talk, "system text set" if argument else "no system text")


def _set(talk: Talk, argument: str) -> None:
    if argument:
        talk.conversation.sampling = changed(talk.conversation.sampling, argument)
    output.notice(described(talk.conversation.sampling))


def _list(talk: Talk, argument: str) -> None:
    output.show(f"contexts: {_listed('contexts')}\nconfigurations: {_listed('configs')}")


def _listed(folder: str) -> str:
    return ", ".join(names(folder)) or "none yet"


def _undo(talk: Talk, argument: str) -> None:
    turn = talk.conversation.undo()
    pictures = " (its pictures go with the next question)" if turn.images else ""
    output.notice(f"taken back: {_short(turn.prompt)}{pictures}")


def _retry(talk: Talk, argument: str) -> None:
    turn = talk.conversation.undo()
    output.notice(f"asking again: {_short(turn.prompt)}")
    if turn.has_pictures_within:
        output.notice("its pictures come before its text now")
    talk.ask(turn.prompt)


def _clear(talk: Talk, argument: str) -> None:
    pictures = [image for image, _ in talk.pictures()]
    talk.conversation.clear()
    for picture in pictures:
        talk.conversation.attach(picture)
    output.notice("a new conversation about the same pictures" if pictures else "a new conversation")


def _save(talk: Talk, argument: str) -> None:
    from prefixkv.chat.context import save_context

    path = named_file("contexts", argument)
    save_context(talk.conversation, path, argument)
    output.notice(
        f"saved {argument} ({format_bytes(path.stat().st_size)}): go on with `prefixkv chat --context {argument}`"
    )


def _load(talk: Talk, argument: str) -> None:
    from prefixkv.chat.context import load_context

    now = talk.conversation
    talk.conversation = load_context(find_file("contexts", argument), now.loaded, now.sampling, output.notice)
    talk.conversation.max_pixels, talk.conversation.keep_marks = now.max_pixels, now.keep_marks
    turns, pictures = len(talk.conversation.history), len(talk.pictures())
    output.notice(f"loaded {argument}: turns {turns}, pictures {pictures}; what was said before is put aside")


def _export(talk: Talk, argument: str) -> None:
    write_transcript(talk.conversation, Path(argument).expanduser())
    output.notice(f"wrote {argument}")


def _show(talk: Talk, argument: str) -> None:
    write_kept_file(talk.conversation, Path(argument).expanduser())


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


KEYS = (
    'Enter asks. Alt-Enter, a \\ at the end, or a pair of """ makes more lines.',
    "Drop a picture here, or name it in a question. Tab completes.",
    "Ctrl-C stops an answer and keeps what was said; twice on an empty line it leaves.",
)

COMMANDS: dict[str, SlashCommand] = {
    "/help": SlashCommand("", "this list; /? is the same", _help),
    "/image": SlashCommand("PATH", f"add a picture: {SOURCES_HELP}", _image, PICTURES, needs=True),
    "/images": SlashCommand("", "the pictures so far", _images),
    "/budget": SlashCommand("X", "what the cache may keep", _budget, lambda: ("20%", "50%", "100%")),
    "/method": SlashCommand("X", "how entries are chosen; alone: all of them", _method, method_names),
    "/codec": SlashCommand("X", "in which precision entries are stored; alone: all of them", _codec, lambda: CODECS),
    "/config": SlashCommand(
        "NAME", "take a saved configuration; alone: all of them", _config, lambda: names("configs")
    ),
    "/set": SlashCommand("SETTING VALUE", f"{', '.join(SETTINGS)}; alone: how they are", _set, lambda: SETTINGS),
    "/list": SlashCommand("", "saved contexts and configurations", _list),
    "/stats": SlashCommand("", "what the cache holds in all", lambda talk, _: talk.show_totals()),
    "/layers": SlashCommand("", "what it holds, layer by layer", lambda talk, _: talk.show_layers()),
    "/show": SlashCommand(
        "FILE", "what each layer keeps of the pictures, to FILE.html or FILE.png", _show, PATHS, needs=True
    ),
    "/retry": SlashCommand("", "ask the last question again", _retry),
    "/undo": SlashCommand("", "take the last turn back", _undo),
    "/clear": SlashCommand("", "forget the turns, keep the pictures", _clear),
    "/system": SlashCommand("TEXT", "instructions before all turns; alone: none", _system),
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
