"""Answers of one conversation on their way into the log; no error of the log costs an answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from prefixkv_cli import output
from prefixkv_cli.failures import Failure

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation
    from prefixkv_cli.answer_log.store import LoggedAnswer


class Journal:
    """Writes to the log what a conversation's turns are, one after another.

    Attributes:
        is_on: whether anything is written.
        conversation_id: the same for all its entries.
    """

    def __init__(self, is_on: bool) -> None:
        self.is_on, self.conversation_id = is_on, os.urandom(8).hex()

    @contextmanager
    def logged(self, conversation: Conversation) -> Iterator[None]:
        """Log the turn that ends within this block, also one that Ctrl-C or a reader who leaves has cut short.

        Args:
            conversation: that a question is asked of.
        """
        turns = len(conversation.history)
        try:
            yield
        finally:
            if self.is_on and len(conversation.history) > turns:
                self.add(lambda: self._entry(conversation))

    def add(self, entry: Callable[[], LoggedAnswer]) -> None:
        """Log an answer.

        Args:
            entry: makes what is logged.
        """
        from prefixkv_cli.answer_log.store import add_answer

        try:
            add_answer(entry())
        # Whatever goes wrong here, the answer was given. It is said once, not after each answer.
        except Exception as error:
            self.is_on = False
            output.notice(f"answers are not logged: {Failure.of(error).message}")

    def _entry(self, conversation: Conversation) -> LoggedAnswer:
        from prefixkv.inputs.images import picture_sha256
        from prefixkv_cli.answer_log.store import LoggedAnswer

        turn, answer = conversation.history[-1]
        cache, usage = conversation.cache, conversation.usage()
        return LoggedAnswer(
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            conversation=self.conversation_id,
            prompt=turn.prompt,
            answer=answer.text,
            pictures=tuple(
                {"name": str(image.info.get("name", "picture")), "sha256": picture_sha256(image)}
                for image in turn.images
            ),
            model=conversation.loaded.id,
            method=cache.method.name,
            codec=usage.codec,
            budget=cache.budget.text,
            prompt_tokens=answer.prompt_tokens,
            new_tokens=answer.new_tokens,
            finish_reason=answer.finish_reason,
            kept_bytes=usage.kept_bytes,
            full_bytes=usage.full_bytes,
            prefill_seconds=answer.prefill_seconds,
            decode_seconds=answer.decode_seconds,
        )
