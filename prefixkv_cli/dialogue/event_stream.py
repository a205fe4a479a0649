"""`--json-lines`: what happens, as one JSON object a line, as it happens.

`start` once; for each question `token` for every piece of text, `stats` now and then, and `turn` with what `--json`
prints; `end` once, also after an error or Ctrl-C, with the exit code.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prefixkv.generation.answer import rate
from prefixkv.inputs.images import picture_sha256
from prefixkv_cli import output
from prefixkv_cli.dialogue.interrupts import stoppable
from prefixkv_cli.dialogue.turn_record import turn_record
from prefixkv_cli.failures import Failure

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation
    from prefixkv_cli.answer_log.journal import Journal

STATS_SECONDS = 0.25
"""Between two `stats` events of an answer."""


def stream_events(conversation: Conversation, questions: Sequence[str], journal: Journal) -> None:
    """Ask one question after another and write the events.

    Args:
        conversation: whose pictures wait.
        questions: at least one.
        journal: logs the turns.

    Raises:
        KeyboardInterrupt: Ctrl-C, after the `turn` that it has cut short and the `end`.
        PrefixKVError: a question cannot be answered.
    """
    turn = 0
    try:
        _write_start(conversation)
        for turn, question in enumerate(questions, start=1):
            with journal.logged(conversation):
                _answer(conversation, question, turn)
    except output.ReaderLeftError:
        raise
    except BaseException as error:
        failure = Failure.of(error)
        _write("end", turns=len(conversation.history), exit_code=failure.exit_code, error=failure.message or None)
        raise
    _write("end", turns=turn, exit_code=0, error=None)


def _write_start(conversation: Conversation) -> None:
    cache = conversation.cache
    pictures = [
        {
            "name": image.info.get("name", "picture"),
            "sha256": picture_sha256(image),
            "width": image.width,
            "height": image.height,
        }
        for image in conversation.waiting
    ]
    _write(
        "start",
        model=conversation.loaded.id,
        method=cache.method.name,
        codec=cache.codec.name,
        budget=cache.budget.text,
        earlier_turns=len(conversation.history),
        pictures=pictures,
    )


def _answer(conversation: Conversation, question: str, turn: int) -> None:
    turns = len(conversation.history)
    stats_at = time.perf_counter()
    first_at, first_seen = None, 0
    try:
        for piece in stoppable(conversation.ask(question)):
            _write("token", turn=turn, text=piece)
            now, seen = time.perf_counter(), conversation.cache.seen_tokens
            if first_at is None:
                first_at, first_seen = now, seen
            if now - stats_at >= STATS_SECONDS and now > first_at:
                stats_at = now
                _write_stats(conversation, turn, rate(1 + seen - first_seen, now - first_at))
    finally:
        if len(conversation.history) > turns:
            _write("turn", turn=turn, question=question, **turn_record(conversation))


def _write_stats(conversation: Conversation, turn: int, tokens_per_second: float | None) -> None:
    usage = conversation.usage()
    _write(
        "stats",
        turn=turn,
        seen_tokens=conversation.cache.seen_tokens,
        kept_tokens_fraction=usage.kept_tokens_fraction,
        bytes_fraction=usage.bytes_fraction,
        bits=usage.bits,
        kept_bytes=usage.kept_bytes,
        full_bytes=usage.full_bytes,
        tokens_per_second=tokens_per_second,
    )


def _write(event: str, **fields: Any) -> None:
    output.write_json({"event": event, **fields})
