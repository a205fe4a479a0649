"""Second and third questions of a conversation: what lies next to the object just spoken of, and further counts."""

from __future__ import annotations

from prefixkv.demo.glyphs import SHAPES
from prefixkv.demo.naming import PLURALS, description, place, unique_names
from prefixkv.demo.phrasing import Asked, Chooser, phrase
from prefixkv.demo.scenes import COLOURS, GRID, Scene, SceneObject

_DIRECTIONS = {
    "below it": (1, 0),
    "above it": (-1, 0),
    "to the right of it": (0, 1),
    "to the left of it": (0, -1),
}

Pair = tuple[str, str]


def _first_question(scene: Scene, choose: Chooser, item: SceneObject) -> tuple[str, Pair] | None:
    """Ask about one object.

    Returns:
        What the question is after (`object`, `colour` or `shape`), and the question with its answer.
    """
    asked_for = choose.one(("cell", "cell", "place", "colour", "shape"))
    if asked_for == "cell":
        numerals = f"row {item.row + 1}, column {item.column + 1}"
        words = place(item.row, item.column) if choose.chance(0.7) else numerals
        return "object", (phrase(choose, "cell", noun=words), description(item))
    names = unique_names(scene, item, () if asked_for == "place" else (asked_for,))
    if not names:
        return None
    question = phrase(choose, asked_for, noun=choose.one(names))
    if asked_for == "place":
        return "object", (question, place(item.row, item.column))
    return asked_for, (question, str(getattr(item, asked_for)))


def _step(
    scene: Scene, choose: Chooser, item: SceneObject, asked_for: str, needs_object: bool
) -> tuple[SceneObject | None, Pair] | None:
    """Ask for a neighbour of the object in the grid.

    Returns:
        The neighbour and the question with its answer, or None where the chosen direction has nothing to ask.
    """
    options = []
    for words, (down, right) in _DIRECTIONS.items():
        row, column = item.row + down, item.column + right
        if 0 <= row < GRID and 0 <= column < GRID:
            options.append((words, scene.at(row, column)))
    filled = [option for option in options if option[1] is not None]
    may_be_empty = not needs_object and asked_for == "object" and choose.chance(0.2)
    pool = options if may_be_empty else filled
    if not pool:
        return None
    words, neighbour = choose.one(pool)
    if asked_for == "object":
        wording = choose.one(("next", "next_what"))
        return neighbour, (phrase(choose, wording, noun=words), description(neighbour))
    return neighbour, (phrase(choose, "next", noun=words), str(getattr(neighbour, asked_for)))


def ask_next(scene: Scene, choose: Chooser) -> Asked | None:
    """A question about an object, then one about its neighbour, sometimes one more about the neighbour's neighbour."""
    item = choose.one(scene.objects)
    first = _first_question(scene, choose, item)
    if first is None:
        return None
    asked_for, opening = first
    context = [opening]
    if choose.chance(0.3):
        step = _step(scene, choose, item, asked_for, needs_object=True)
        if step is None or step[0] is None:
            return None
        item = step[0]
        context.append(step[1])
    step = _step(scene, choose, item, asked_for, needs_object=False)
    if step is None:
        return None
    question, answer = step[1]
    return question, answer, tuple(context)


def ask_next_count(scene: Scene, choose: Chooser) -> Asked | None:
    """A count of one colour or shape, then the count of another."""
    attribute = choose.one(("colour", "shape"))
    known = tuple(COLOURS) if attribute == "colour" else SHAPES
    present = sorted({str(getattr(item, attribute)) for item in scene.objects})
    first = choose.one(present)
    others = [value for value in (known if choose.chance(0.2) else present) if value != first]
    if not others:
        return None
    second = choose.one(others)
    counts = [str(sum(getattr(item, attribute) == value for item in scene.objects)) for value in (first, second)]
    nouns = (first, second) if attribute == "colour" else (PLURALS[first], PLURALS[second])
    opening = phrase(choose, f"count_{attribute}", noun=nouns[0])
    return phrase(choose, f"next_{attribute}", noun=nouns[1]), counts[1], ((opening, counts[0]),)
