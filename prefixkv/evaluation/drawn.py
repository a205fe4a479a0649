"""Questions about drawn scenes and documents that no training has seen. No torch in here."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
from PIL import Image

from prefixkv.evaluation.data import Question

_FOLLOWUP_STREAM = 7004
_NEEDS_CONTEXT = ("next", "next_count")
_SAYS_LITTLE = ("count_shape", "count_colour", "count_all", "presence")
"""Kinds whose answers tell nothing about a single object, so that any other question is unrelated to them."""

_COMMON_WORDS = frozenset(
    {"a", "an", "the", "is", "are", "in", "of", "to", "and", "row", "column", "no", "yes", "there"}
)


def scene_questions(count: int, seed: int) -> list[Question]:
    """A test set in which every kind is equally frequent, each question about a picture of its own.

    Args:
        count: how many; a larger set begins with the smaller one.
        seed: different seeds give different pictures.
    """
    from prefixkv.demo.questions import question_set

    return [
        Question(asked.question, asked.answer, asked.kind, asked.context, partial(_picture, scene.seed))
        for scene, asked in question_set(count, seed)
    ]


def followup_questions(count: int, seed: int) -> list[Question]:
    """Second questions that have nothing to do with the first, each pair about a picture of its own.

    The first question with its right answer is the context. Its words give no part of the second answer away.

    Args:
        count: how many; the kinds of the second question are equally frequent.
        seed: different seeds give different pictures.
    """
    from prefixkv.demo.questions import KINDS, scene_questions
    from prefixkv.demo.scenes import draw_scene

    kinds = [kind for kind in KINDS if kind not in _NEEDS_CONTEXT]
    found: list[Question] = []
    attempt = 0
    while len(found) < count:
        scene_seed, pick = (int(n) for n in np.random.SeedSequence([_FOLLOWUP_STREAM, seed, attempt]).generate_state(2))
        attempt += 1
        kind = kinds[len(found) % len(kinds)]
        scene = draw_scene(scene_seed)
        asked = [question for question in scene_questions(scene, seed) if not question.context]
        pairs = [
            (first, second)
            for second in asked
            if second.kind == kind
            for first in asked
            if _unrelated(first.kind, f"{first.question} {first.answer}", second.kind, second.answer)
        ]
        if pairs:
            first, second = pairs[pick % len(pairs)]
            context = ((first.question, first.answer),)
            found.append(Question(second.question, second.answer, kind, context, partial(_picture, scene.seed)))
    return found


def reading_questions(count: int, seed: int) -> list[Question]:
    """A test set about documents in which every kind of question is equally frequent, each with a picture of its own.

    Args:
        count: how many; a larger set begins with the smaller one.
        seed: different seeds give different documents.
    """
    from prefixkv.demo.documents.questions import document_set

    return [
        Question(asked.question, asked.answer, asked.kind, asked.context, partial(_document, document_seed, kind))
        for document_seed, kind, asked in document_set(count, seed)
    ]


def _unrelated(first_kind: str, first_words: str, second_kind: str, second_answer: str) -> bool:
    if first_kind in ("describe", second_kind):
        return False
    if first_kind in _SAYS_LITTLE:
        return True
    return not _words(first_words) & _words(second_answer)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - _COMMON_WORDS


def _picture(scene_seed: int) -> Image.Image:
    from prefixkv.demo.scenes import draw_scene

    return draw_scene(scene_seed).image


def _document(document_seed: int, kind: str) -> Image.Image:
    from prefixkv.demo.documents.document import draw_document

    return draw_document(document_seed, kind).image
