"""A conversation as the user has it: what is asked and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.text import Text

from prefixkv.errors import PrefixKVError
from prefixkv_cli import output
from prefixkv_cli.answer_log.journal import Journal
from prefixkv_cli.dialogue.answer_view import show_answer
from prefixkv_cli.dialogue.interrupts import stoppable
from prefixkv_cli.dialogue.picture_input import open_pictures
from prefixkv_cli.dialogue.status_bar import status_bar
from prefixkv_cli.tables.cache_report import CacheReport
from prefixkv_cli.tables.usage_table import usage_line, usage_table

if TYPE_CHECKING:
    from collections.abc import Generator

    from PIL.Image import Image

    from prefixkv.chat.conversation import Conversation
    from prefixkv.models.loading import LoadedModel


_TURNS_SHOWN = 3
"""Of a conversation that goes on."""
_LINE = 70
"""Characters of a question or an answer there."""
EXAMPLE_HELP = "drop one here, or press Enter on an empty line for an example"


@dataclass
class Talk:
    """One conversation and how it is shown.

    Attributes:
        conversation: may be replaced by one that was saved.
        stats: whether the table of the cache follows each answer, not only its totals.
        plain: whether answers are shown as they are, without Markdown and live view.
        journal: logs the turns.
        load: loads another model by its name; None where there is to be no other.
        compose: has the user write a text in an editor, beginning with the one given; None where there is no terminal.
    """

    conversation: Conversation
    stats: bool = False
    plain: bool = False
    journal: Journal = field(default_factory=lambda: Journal(is_on=False))
    load: Callable[[str], LoadedModel] | None = None
    compose: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        """Note which turns are not new."""
        self.take(self.conversation)

    def take(self, conversation: Conversation) -> None:
        """Go on with a conversation that a file has."""
        self.conversation = conversation
        self._in_file = [turn for turn, _ in conversation.history]

    def has_new_turns(self) -> bool:
        """Whether the turns are others than those of the file that the conversation came from."""
        return [turn for turn, _ in self.conversation.history] != self._in_file

    def status(self) -> str:
        """The line below the prompt; none with `--quiet`."""
        return "" if output.is_quiet() else status_bar(self.conversation)

    def ask(self, question: str) -> None:
        """Ask, and show the answer. Ctrl-C stops it, and what was said so far is kept, in the cache as on the screen.

        Raises:
            PrefixKVError: the question cannot be answered; it was never asked.
        """
        if self.lacks_picture():
            raise PrefixKVError(f"the demo model answers questions about a picture: {EXAMPLE_HELP}")
        self.show(self.conversation.ask(question))

    def show(self, pieces: Generator[str, None, None]) -> None:
        """Show an answer as it comes; as `ask`.

        Args:
            pieces: of the answer.
        """
        turns = len(self.conversation.history)
        try:
            with self.journal.logged(self.conversation):
                show_answer(self.conversation, stoppable(pieces), self.plain)
        except KeyboardInterrupt:
            kept = len(self.conversation.history) > turns
            output.status(
                "stopped; the answer is kept as far as it was said (/undo takes the turn back)"
                if kept
                else "stopped; the question was not asked"
            )
            if not kept:
                return
        if output.is_quiet():
            return
        if self.stats:
            self.show_layers()
        else:
            answer = self.conversation.last_answer
            output.status(usage_line(self.conversation.usage(), answer.tokens_per_second if answer else None))

    def attach(self, sources: list[str]) -> None:
        """Add pictures to the next question.

        Raises:
            PrefixKVError: one of them cannot be read; none is added.
        """
        for picture in [picture for source in sources for picture in open_pictures(source)]:
            self.conversation.attach(picture)
            output.status(f"{picture.info['name']} ({picture.width} x {picture.height}) goes with the next question")

    def lacks_picture(self) -> bool:
        """Whether the model is the demo, which answers questions about pictures only, and there is none yet."""
        return self.conversation.loaded.id == "demo" and not self.pictures()

    def pictures(self) -> list[tuple[Image, int | None]]:
        """All pictures with the number of their turn, from 1; None for those that wait for the next question."""
        turns = enumerate(self.conversation.history, start=1)
        asked: list[tuple[Image, int | None]] = [
            (image, number) for number, (turn, _) in turns for image in turn.images
        ]
        return asked + [(image, None) for image in self.conversation.waiting]

    def show_header(self) -> None:
        """What the conversation begins with, on stderr: model, method, budget, pictures; the last turn; what to do."""
        conversation = self.conversation
        pictures = ", ".join(str(image.info.get("name", "picture")) for image, _ in self.pictures()) or "no picture"
        cache = conversation.cache
        codec = "" if cache.codec.is_auto else f" · codec {cache.codec.name}"
        rule = f"{cache.method.name}{codec} · budget {cache.budget.text}"
        output.status(f"{conversation.loaded.id} · {rule} · {pictures}")
        if conversation.history:
            shown = conversation.history[-_TURNS_SHOWN:]
            last = "" if len(shown) == len(conversation.history) else f", the last {len(shown)}"
            output.status(f"turns so far {len(conversation.history)}{last}:")
            for turn, answer in shown:
                output.show(Text(f"  > {_one_line(turn.prompt)}\n    {_one_line(answer.text)}", style="dim"))
        if self.lacks_picture():
            output.status(f"there is no picture yet: {EXAMPLE_HELP}; /help lists what else there is")
        else:
            output.status(
                f"ask {'about the picture' if self.pictures() else 'something'}; /help lists what else there is"
            )

    def show_layers(self) -> None:
        """The whole table of the cache, on stderr."""
        report = CacheReport.of(self.conversation)
        if not any(layer.seen_tokens for layer in report.usage.layers):
            output.notice("nothing has been read yet: ask a question first")
            return
        output.show(usage_table(report.usage, report.tokens_per_second, report.kinds))

    def show_totals(self) -> None:
        """What the cache holds in all, on stderr."""
        turns, method = len(self.conversation.history), self.conversation.cache.method.name
        lines = [
            f"model {self.conversation.loaded.id} · method {method} · turns {turns} · pictures {len(self.pictures())}"
        ]
        output.show("\n".join(lines + CacheReport.of(self.conversation).lines()))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"
