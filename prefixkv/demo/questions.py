"""Questions about a scene with exact answers; no torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prefixkv.demo.followups import ask_next, ask_next_count
from prefixkv.demo.glyphs import SHAPES
from prefixkv.demo.naming import PLURALS, describe, description, place, unique_names, with_article
from prefixkv.demo.phrasing import Asked, Chooser, phrase
from prefixkv.demo.scenes import COLOURS, GRID, Scene, SceneObject, draw_scene

_QUESTION_STREAM = 7002
_SET_STREAM = 7003


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        kind: One of `KINDS`.
        question: What the user asks last.
        answer: The one correct answer, compared exactly.
        context: Earlier (question, answer) pairs of the same conversation; empty for a first question.
    """

    kind: str
    question: str
    answer: str
    context: tuple[tuple[str, str], ...] = ()


def _count_shape(scene: Scene, choose: Chooser) -> Asked | None:
    shape = _present_or_any(choose, [item.shape for item in scene.objects], SHAPES)
    count = sum(item.shape == shape for item in scene.objects)
    return phrase(choose, "count_shape", noun=PLURALS[shape]), str(count), ()


def _count_colour(scene: Scene, choose: Chooser) -> Asked | None:
    colour = _present_or_any(choose, [item.colour for item in scene.objects], tuple(COLOURS))
    count = sum(item.colour == colour for item in scene.objects)
    return phrase(choose, "count_colour", noun=colour), str(count), ()


def _present_or_any(choose: Chooser, present: list[str], known: tuple[str, ...]) -> str:
    # Distinct values, so that the frequent ones do not make every count large; sometimes one that is absent.
    distinct = sorted(set(present))
    return choose.one(known) if choose.chance(0.15) else choose.one(distinct)


def _count_all(scene: Scene, choose: Chooser) -> Asked | None:
    return phrase(choose, "count_all"), str(len(scene.objects)), ()


def _named(scene: Scene, choose: Chooser, hidden: tuple[str, ...] = ()) -> tuple[SceneObject, str] | None:
    for item in choose.shuffled(scene.objects):
        names = unique_names(scene, item, hidden)
        if names:
            return item, choose.one(names)
    return None


def _colour(scene: Scene, choose: Chooser) -> Asked | None:
    found = _named(scene, choose, ("colour",))
    return None if found is None else (phrase(choose, "colour", noun=found[1]), found[0].colour, ())


def _shape(scene: Scene, choose: Chooser) -> Asked | None:
    found = _named(scene, choose, ("shape",))
    return None if found is None else (phrase(choose, "shape", noun=found[1]), found[0].shape, ())


def _place(scene: Scene, choose: Chooser) -> Asked | None:
    found = _named(scene, choose)
    if found is None:
        return None
    return phrase(choose, "place", noun=found[1]), place(found[0].row, found[0].column), ()


def _cell(scene: Scene, choose: Chooser) -> Asked | None:
    if choose.chance(0.2):
        row, column = choose.below(GRID), choose.below(GRID)
    else:
        item = choose.one(scene.objects)
        row, column = item.row, item.column
    words = place(row, column) if choose.chance(0.7) else f"row {row + 1}, column {column + 1}"
    return phrase(choose, "cell", noun=words), description(scene.at(row, column)), ()


def _pair(
    scene: Scene, choose: Chooser, attribute: str, hidden: tuple[str, ...]
) -> tuple[SceneObject, str, SceneObject, str] | None:
    named = [(item, unique_names(scene, item, hidden)) for item in choose.shuffled(scene.objects)]
    named = [(item, names) for item, names in named if names]
    for first, names in named:
        for second, others in named:
            if getattr(first, attribute) != getattr(second, attribute):
                return first, choose.one(names), second, choose.one(others)
    return None


def _larger(scene: Scene, choose: Chooser) -> Asked | None:
    # A size word gives the answer away, and so does a letter: only large objects carry one.
    found = _pair(scene, choose, "size", ("size", "letter"))
    if found is None:
        return None
    first, name, _, other = found
    return phrase(choose, "larger", noun=name, other=other), f"the {name if first.size == 'large' else other}", ()


def _left(scene: Scene, choose: Chooser) -> Asked | None:
    found = _pair(scene, choose, "column", ())
    if found is None:
        return None
    first, name, second, other = found
    return phrase(choose, "left", noun=name, other=other), f"the {name if first.column < second.column else other}", ()


def _letters(scene: Scene, choose: Chooser) -> Asked | None:
    letters = [item.letter for item in scene.objects if item.letter is not None]
    return (phrase(choose, "letters"), ", ".join(letters), ()) if letters else None


def _letter(scene: Scene, choose: Chooser) -> Asked | None:
    for item in choose.shuffled(scene.objects):
        names = unique_names(scene, item, ("letter",))
        if item.letter is not None and names:
            return phrase(choose, "letter", noun=choose.one(names)), item.letter, ()
    return None


def _presence(scene: Scene, choose: Chooser) -> Asked | None:
    present = choose.chance(0.5)
    form = choose.one(("shape", "colour", "both"))
    shapes = {item.shape for item in scene.objects}
    colours = {item.colour for item in scene.objects}
    if form == "shape":
        nouns = [shape for shape in SHAPES if (shape in shapes) == present]
    elif form == "colour":
        nouns = [f"{colour} object" for colour in COLOURS if (colour in colours) == present]
    else:
        pairs = {(item.colour, item.shape) for item in scene.objects}
        # The absent pairs are made of a colour and a shape that are both there: the hard case.
        known = [(c, s) for c in COLOURS for s in SHAPES if c in colours and s in shapes]
        nouns = [f"{colour} {shape}" for colour, shape in known if ((colour, shape) in pairs) == present]
    if not nouns:
        return None
    return phrase(choose, "presence", noun=with_article(choose.one(nouns))), "yes" if present else "no", ()


def _describe(scene: Scene, choose: Chooser) -> Asked | None:
    return phrase(choose, "describe"), describe(scene), ()


_ASKERS: dict[str, tuple[Callable[[Scene, Chooser], Asked | None], int]] = {
    "count_shape": (_count_shape, 3),
    "count_colour": (_count_colour, 3),
    "count_all": (_count_all, 1),
    "colour": (_colour, 3),
    "shape": (_shape, 3),
    "place": (_place, 3),
    "cell": (_cell, 3),
    "larger": (_larger, 3),
    "left": (_left, 3),
    "letters": (_letters, 1),
    "letter": (_letter, 2),
    "presence": (_presence, 3),
    "describe": (_describe, 1),
    "next": (ask_next, 5),
    "next_count": (ask_next_count, 2),
}

KINDS = tuple(_ASKERS)


def scene_questions(scene: Scene, seed: int) -> list[Question]:
    """Questions of every kind that the scene allows.

    Args:
        scene: The scene.
        seed: Chooses objects and wordings; any non-negative integer.

    Returns:
        A sample without repeats, grouped by kind in the order of `KINDS`; each has exactly one correct answer.
    """
    choose = Chooser([_QUESTION_STREAM, scene.seed, seed])
    questions: dict[Question, None] = {}
    for kind, (ask, times) in _ASKERS.items():
        for _ in range(times):
            asked = ask(scene, choose)
            if asked is not None:
                questions[Question(kind, *asked)] = None
    return list(questions)


def question_set(count: int, seed: int) -> list[tuple[Scene, Question]]:
    """A test set in which every kind is equally frequent, each question about a picture of its own.

    Args:
        count: Number of questions.
        seed: Different seeds give different pictures; none of them was used in training.

    Returns:
        Pairs of scene and question.
    """
    pairs: list[tuple[Scene, Question]] = []
    attempt = 0
    while len(pairs) < count:
        # A 32-bit scene seed stays below TRAINING_SEED_START whatever the caller's seed is.
        scene_seed = int(np.random.SeedSequence([_SET_STREAM, seed, attempt]).generate_state(1)[0])
        attempt += 1
        kind = KINDS[len(pairs) % len(KINDS)]
        scene = draw_scene(scene_seed)
        asked = _ASKERS[kind][0](scene, Chooser([_QUESTION_STREAM, scene_seed, seed]))
        if asked is not None:
            pairs.append((scene, Question(kind, *asked)))
    return pairs
