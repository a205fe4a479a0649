"""`prefixkv chat -p` by a server: the same answers, objects and events as by a model in this process."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from datetime import datetime, timezone
from itertools import repeat
from typing import Any

from prefixkv_cli import output
from prefixkv_cli.answer_log.journal import Journal
from prefixkv_cli.failures import Failure
from prefixkv_cli.remote.client import RemoteConversation


def ask_remotely(
    talk: RemoteConversation,
    questions: Sequence[str],
    journal: Journal,
    json: bool,
    json_lines: bool,
    plain: bool,
) -> None:
    """Ask one question after another and write the answers.

    Args:
        talk: with the server.
        questions: at least one; one only with `json`.
        journal: logs the answers.
        json: whether to write one object.
        json_lines: whether to write events.
        plain: whether Markdown is left as it is.

    Raises:
        PrefixKVError: a question is not answered.
    """
    if json_lines:
        _write_events(talk, questions, journal)
        return
    for question in questions:
        write_answer(talk, question, talk.ask(question), journal, json, plain)


def write_answer(
    talk: RemoteConversation,
    question: str,
    pieces: Generator[str, None, None],
    journal: Journal,
    json: bool,
    plain: bool,
) -> None:
    """Write one answer, and log it.

    Args:
        talk: with the server.
        question: that is answered.
        pieces: of the answer, as they come.
        journal: logs it.
        json: whether to write one object.
        plain: whether Markdown is left as it is.

    Raises:
        PrefixKVError: the question is not answered.
    """
    with closing(pieces):
        if json:
            for _ in pieces:
                pass
        else:
            _show(talk, pieces, plain)
    record = _record(talk)
    _log(journal, talk, question)
    if json:
        output.write_document("answer", record)


def _show(talk: RemoteConversation, pieces: Any, plain: bool) -> None:
    if not plain and output.is_terminal(sys.stdout):
        # Here, while the server reads; a pipe is not to wait for the import of its parser.
        from rich.markdown import Markdown

        for _ in pieces:
            pass
        output.stdout_console().print(Markdown(talk.answer))
        return
    try:
        for piece in pieces:
            output.write_text(piece)
    finally:
        output.write_text("\n")


def _record(talk: RemoteConversation) -> dict[str, Any]:
    """What `--json` says; the server's notices are said, too."""
    facts = dict(talk.facts)
    # For the log alone.
    facts.pop("pictures", None)
    for text in facts.pop("warnings"):
        output.notice(text)
    warnings = output.take_notices()
    record = {"answer": talk.answer, "model": talk.model, **facts}
    return record | ({"warnings": warnings} if warnings else {})


def _write_events(talk: RemoteConversation, questions: Sequence[str], journal: Journal) -> None:
    turn = 0
    try:
        for turn, question in enumerate(questions, start=1):
            with closing(talk.ask(question)) as pieces:
                first = next(pieces, "")
                if turn == 1:
                    named = [{"name": picture.name, **(picture.facts or {})} for picture in talk.pictures]
                    output.write_json({"event": "start", "model": talk.model, "earlier_turns": 0, "pictures": named})
                output.write_json({"event": "token", "turn": turn, "text": first})
                for piece in pieces:
                    output.write_json({"event": "token", "turn": turn, "text": piece})
            output.write_json({"event": "turn", "turn": turn, "question": question, **_record(talk)})
            _log(journal, talk, question)
    except output.ReaderLeftError:
        raise
    except BaseException as error:
        failure = Failure.of(error)
        said = failure.message or None
        output.write_json({"event": "end", "turns": turn, "exit_code": failure.exit_code, "error": said})
        raise
    output.write_json({"event": "end", "turns": turn, "exit_code": 0, "error": None})


def _log(journal: Journal, talk: RemoteConversation, question: str) -> None:
    if not journal.is_on:
        return
    from prefixkv_cli.answer_log.store import LoggedAnswer

    facts, kept = talk.facts, talk.facts["kv"] or {}
    journal.add(
        lambda: LoggedAnswer(
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            conversation=journal.conversation_id,
            prompt=question,
            answer=talk.answer,
            pictures=tuple(
                {"name": picture.name, "sha256": (picture.facts or told)["sha256"]}
                for picture, told in zip(talk.pictures, facts.get("pictures") or repeat({}), strict=False)
            ),
            model=talk.model,
            method=facts["method"],
            codec=kept.get("codec", facts["codec"]),
            budget=facts["budget"],
            prompt_tokens=facts["prompt_tokens"],
            new_tokens=facts["new_tokens"],
            finish_reason=facts["finish_reason"],
            kept_bytes=kept.get("kept_bytes", 0),
            full_bytes=kept.get("full_bytes", 0),
            prefill_seconds=facts["seconds"]["prefill"],
            decode_seconds=facts["seconds"]["decode"],
        )
    )
