"""One line of the conversation: editing, history, several lines in one, completion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import (
    CompleteEvent,
    Completer,
    Completion,
    PathCompleter,
    get_common_complete_suffix,
)
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input.defaults import create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.defaults import create_output

from prefixkv_cli import output

BLOCK = '"""'
"""Between two of these, Enter begins a new line."""
PATHS, PICTURES = "paths", "pictures"
Choices = str | Callable[[], Iterable[str] | Mapping[str, str]]
"""What a command's argument may be: `PATHS`, `PICTURES`, or a function that lists words, which may have meanings."""
PLACEHOLDER = "Ask (/? for help)"


@dataclass(frozen=True)
class CommandCompletion:
    """What completion shows of a command.

    Attributes:
        summary: one line, beside the name.
        choices: what its argument may be; None where it takes none or any text.
    """

    summary: str
    choices: Choices | None = None


class LineEditor:
    """Reads lines on stderr, so that stdout has the answers and nothing else."""

    def __init__(self, commands: Mapping[str, CommandCompletion], history: Path) -> None:
        """Prepare.

        Args:
            commands: by name.
            history: file of earlier lines.
        """
        self._session: PromptSession[str] = PromptSession(
            output=create_output(stdout=sys.stderr),
            # The keyboard, also where a picture was piped into stdin.
            input=create_input(always_prefer_tty=True),
            history=_history(history),
            completer=_LineCompleter(commands),
            complete_while_typing=Condition(self._begins_a_command),
            reserve_space_for_menu=4,
            key_bindings=self._keys(),
            prompt_continuation="... ",
            placeholder=FormattedText([("ansibrightblack", PLACEHOLDER)]),
        )
        self._waiting: list[Callable[[], None]] = []

    def read(self, status: Callable[[], str]) -> str:
        """The next line, or several; without the marks of a block.

        Args:
            status: gives the line that stands below the prompt meanwhile; none where it is empty at the beginning.

        Raises:
            EOFError: Ctrl-D.
            Exception: what `end` was given.
            KeyboardInterrupt: Ctrl-C on an empty line; on another, it only clears the line.
        """
        while True:
            try:
                shown = status if status() else None
                line = self._session.prompt(">>> ", bottom_toolbar=shown, pre_run=self._interrupt_soon)
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    raise
                continue
            return line.replace("\\\n", "\n").replace(BLOCK, "").strip()

    def interrupt(self, work: Callable[[], None]) -> None:
        """Do something above the line that is being edited, or above the next one; called by another thread.

        Args:
            work: done in the thread that edits.
        """
        # First: a line that begins just now looks whether something waits once it can be interrupted.
        self._waiting.append(work)
        loop = self._session.app.loop
        if loop is not None:
            # The line, and its loop, may have ended by now.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._interrupt)

    def _interrupt_soon(self) -> None:
        loop = self._session.app.loop
        if self._waiting and loop is not None:
            loop.call_soon(self._interrupt)

    def _interrupt(self) -> None:
        while self._waiting:
            run_in_terminal(self._waiting.pop(0))

    def end(self, error: Exception) -> None:
        """End the line that is being edited: `read` raises the error."""
        app = self._session.app
        # A line that has ended already is not ended again: whoever takes it meets the error, too.
        if app.is_running and not app.is_done:
            app.exit(exception=error)

    def compose(self, text: str) -> str:
        """A text that the user writes in the editor of VISUAL or EDITOR, else in one that the machine has.

        Args:
            text: what it begins with. Where the editor ends with an error, it is on the line to be asked from there.

        Raises:
            EOFError: Ctrl-D on that line.
            KeyboardInterrupt: Ctrl-C on it.
        """

        def edit() -> None:
            self._session.default_buffer.open_in_editor(validate_and_handle=True)

        return self._session.prompt(">>> ", default=text, pre_run=edit, bottom_toolbar=None).strip()

    def _begins_a_command(self) -> bool:
        text = self._session.default_buffer.text
        return text.startswith("/") and "/" not in text[1:]

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        def is_unfinished() -> bool:
            text = self._session.default_buffer.text
            return text.count(BLOCK) % 2 == 1 or text.endswith("\\")

        @keys.add("escape", "enter")
        @keys.add("enter", filter=Condition(is_unfinished))
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("tab")
        def _(event: KeyPressEvent) -> None:
            _complete(event.current_buffer)

        @keys.add("c-g")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.open_in_editor()

        return keys


class _LineCompleter(Completer):
    """Commands, their arguments, and paths that a question's last word begins."""

    def __init__(self, commands: Mapping[str, CommandCompletion]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)
        self._pictures = PathCompleter(expanduser=True, file_filter=_is_picture_or_folder)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor; called by prompt_toolkit."""
        text = document.text_before_cursor
        name, space, argument = text.partition(" ")
        if name in self._commands and space:
            yield from self._arguments(self._commands[name].choices, argument, complete_event)
        elif text.startswith("/") and not space and "/" not in text[1:]:
            for command, shown in self._commands.items():
                if command.startswith(text):
                    yield Completion(command, start_position=-len(text), display_meta=shown.summary)
        else:
            word = text.split(" ")[-1]
            if word.startswith(("/", "./", "../", "~")):
                yield from self._pictures.get_completions(Document(word), complete_event)

    def _arguments(self, choices: Choices | None, argument: str, event: CompleteEvent) -> Iterable[Completion]:
        if choices in (PATHS, PICTURES):
            paths = self._paths if choices == PATHS else self._pictures
            yield from paths.get_completions(Document(argument), event)
        elif callable(choices):
            listed = choices()
            for choice in listed:
                if choice.startswith(argument):
                    meaning = listed[choice] if isinstance(listed, Mapping) else None
                    yield Completion(choice, start_position=-len(argument), display_meta=meaning)


def _complete(buffer: Buffer) -> None:
    """Take the menu's next line, or what all completions have in common.

    Prompt-toolkit's own Tab does nothing while the menu for the last letter is still being made.
    """
    if buffer.complete_state:
        buffer.complete_next()
        return
    found = list(buffer.completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
    if len(found) == 1:
        buffer.apply_completion(found[0])
    elif common := get_common_complete_suffix(buffer.document, found):
        buffer.insert_text(common)
    elif found:
        buffer.start_completion()


def _is_picture_or_folder(name: str) -> bool:
    path = Path(name)
    from prefixkv.inputs.picture_source import SUFFIXES

    return path.is_dir() or path.suffix.lower().removeprefix(".") in SUFFIXES


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        output.notice(f"lines are not remembered: {path} cannot be written ({error.strerror})")
        return InMemoryHistory()
    return FileHistory(str(path))
