"""Questions about documents with exact answers; no torch in here."""

from __future__ import annotations

import numpy as np

from prefixkv.demo.documents import DOCUMENT_KINDS
from prefixkv.demo.documents.chart import Chart
from prefixkv.demo.documents.document import Content, compose_content
from prefixkv.demo.documents.wordings import phrase
from prefixkv.demo.phrasing import Asked, Chooser
from prefixkv.demo.questions import Question

_QUESTION_STREAM, _SET_STREAM = 7013, 7014

READING_KINDS = {
    "value": 4,
    "total": 2,
    "line": 3,
    "which": 3,
    "tally": 1,
    "yes_no": 3,
    "compare": 3,
    "difference": 2,
    "second": 4,
    "transcription": 1,
}
"""Kinds of question, and how many `document_questions` asks of each."""

_LONG_TEXT = 76
"""Characters of a long text, small letters counted by little more than half, as they often share a token: it has at
least 60 tokens of the demo model's vocabulary."""


def document_questions(kind: str, content: Content, seed: int, picture_seed: int) -> list[Question]:
    """Questions of every kind that the document allows.

    Args:
        kind: of the document.
        content: what it says.
        seed: chooses what is asked about, and the wordings.
        picture_seed: of the document.

    Returns:
        A sample without repeats, in the order of `READING_KINDS`; each has exactly one correct answer.
    """
    choose = Chooser([_QUESTION_STREAM, DOCUMENT_KINDS.index(kind), picture_seed, seed])
    questions: dict[Question, None] = {}
    for asked_kind, times in READING_KINDS.items():
        for _ in range(times):
            asked = _ask(content, asked_kind, choose)
            if asked is not None:
                questions[Question(asked_kind, *asked)] = None
    return list(questions)


def document_set(count: int, seed: int) -> list[tuple[int, str, Question]]:
    """A test set in which every kind of question is equally frequent, each about a document of its own.

    Transcriptions are of long texts only.

    Args:
        count: how many; a larger set begins with the smaller one.
        seed: different seeds give different documents; none of them was used in training.

    Returns:
        Seed and kind of the document, as `draw_document` takes them, and the question.
    """
    found: list[tuple[int, str, Question]] = []
    attempt = 0
    kinds = tuple(READING_KINDS)
    while len(found) < count:
        # A 32-bit seed stays below those of training whatever the caller's seed is.
        picture_seed = int(np.random.SeedSequence([_SET_STREAM, seed, attempt]).generate_state(1)[0])
        attempt += 1
        kind, content = compose_content(picture_seed)
        asked_kind = kinds[len(found) % len(kinds)]
        if asked_kind == "transcription" and not _is_long(content):
            continue
        asked = _ask(content, asked_kind, Chooser([_QUESTION_STREAM, picture_seed, seed]))
        if asked is not None:
            found.append((picture_seed, kind, Question(asked_kind, *asked)))
    return found


def _ask(content: Content, kind: str, choose: Chooser) -> Asked | None:
    if kind != "transcription":
        return content.ask(kind, choose)
    return None if isinstance(content, Chart) else (phrase(choose, "read"), content.sheet.text, ())


def _is_long(content: Content) -> bool:
    if isinstance(content, Chart):
        return False
    text = content.sheet.text
    return len(text) - 0.45 * sum(character.islower() for character in text) >= _LONG_TEXT
