"""The conversation in a terminal: a line is asked, the answer streams, and so on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.output.defaults import create_output

from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv_cli import output
from prefixkv_cli.answer_view import show_answer
from prefixkv_cli.interrupts import stoppable
from prefixkv_cli.usage_table import usage_line, usage_table

if TYPE_CHECKING:
    from PIL.Image import Image

    from prefixkv.chat import Conversation

_HELP = """/stats  what the cache holds, layer by layer
/clear  forget the conversation, keep the pictures
/help   this list
/exit   leave (so does Ctrl-D); Ctrl-C stops an answer"""


def converse(conversation: Conversation, images: Sequence[Image], stats: bool) -> None:
    """Talk until the user leaves.

    Args:
        conversation: a new one.
        images: come before the first question.
        stats: print the table of cache usage after each answer, not only its totals.

    Raises:
        KeyboardInterrupt: Ctrl-C twice in a row.
    """
    talk = _Talk(conversation, images, stats)
    # On stderr, so that stdout has the answers and nothing else.
    session: PromptSession[str] = PromptSession(output=create_output(stdout=sys.stderr))
    output.notice("ask about the picture; /help lists what else there is")
    warned = False
    while True:
        try:
            line = session.prompt(">>> ").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned:
                raise
            warned = True
            output.notice("press Ctrl-C once more, or Ctrl-D, to leave")
            continue
        warned = False
        if line in ("/exit", "/quit"):
            return
        if line:
            talk.take(line)


class _Talk:
    """What is asked and what is shown."""

    def __init__(self, conversation: Conversation, images: Sequence[Image], stats: bool) -> None:
        self._conversation, self._images, self._stats = conversation, images, stats
        self._unseen = images
        self._commands: dict[str, Callable[[], None]] = {
            "/stats": self._show_table,
            "/clear": self._clear,
            "/help": lambda: output.show(_HELP),
        }

    def take(self, line: str) -> None:
        """Carry out one line: a command or a question."""
        if not line.startswith("/"):
            self._ask(line)
        elif line in self._commands:
            self._commands[line]()
        else:
            output.error(f"command {line.split()[0]!r} is not known: /help lists what there is")

    def _ask(self, question: str) -> None:
        before = self._conversation.last_answer
        try:
            show_answer(self._conversation, stoppable(self._conversation.ask(question, self._unseen)))
        except KeyboardInterrupt:
            output.notice("stopped")
        except BudgetTooSmallError:
            raise
        except PrefixKVError as error:
            output.error(str(error))
            return
        if self._conversation.last_answer is before:
            # Stopped before the first token: the question is not part of the conversation, nor are its pictures.
            return
        self._unseen = ()
        if self._stats:
            self._show_table()
        else:
            output.notice(usage_line(self._conversation.usage(), self._speed()))

    def _show_table(self) -> None:
        output.show(usage_table(self._conversation.usage(), self._speed()))

    def _clear(self) -> None:
        self._conversation.clear()
        self._unseen = self._images
        output.notice("a new conversation about the same pictures")

    def _speed(self) -> float | None:
        answer = self._conversation.last_answer
        return answer.tokens_per_second if answer else None
