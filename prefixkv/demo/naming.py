"""Words for objects and places: names that fit exactly one object of a scene, rows, columns, counted plurals."""

from __future__ import annotations

from prefixkv.demo.scenes import Scene, SceneObject

ROW_WORDS = ("top", "second", "third", "bottom")
COLUMN_WORDS = ("first", "second", "third", "fourth")
_NAME_FORMS = (
    ("shape",),
    ("colour",),
    ("colour", "shape"),
    ("size", "shape"),
    ("size", "colour"),
    ("size", "colour", "shape"),
)
PLURALS = {
    "circle": "circles",
    "square": "squares",
    "triangle": "triangles",
    "star": "stars",
    "cross": "crosses",
    "ring": "rings",
}


def place(row: int, column: int) -> str:
    """A grid cell in words, as in `top row, second column`."""
    return f"{ROW_WORDS[row]} row, {COLUMN_WORDS[column]} column"


def description(item: SceneObject | None) -> str:
    """What a cell holds, as in `a large red circle`, or `nothing`."""
    return "nothing" if item is None else f"a {item.size} {item.colour} {item.shape}"


def with_article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def unique_names(scene: Scene, item: SceneObject, hidden: tuple[str, ...] = ()) -> list[str]:
    """The names that fit this object and no other of the scene.

    Args:
        scene: The scene.
        item: One of its objects.
        hidden: Attributes that no name may mention.

    Returns:
        Names without an article, the shortest first; empty where nothing singles the object out.
    """
    names = []
    for form in _NAME_FORMS:
        if set(hidden) & set(form):
            continue
        wanted = tuple(getattr(item, attribute) for attribute in form)
        fitting = sum(tuple(getattr(other, attribute) for attribute in form) == wanted for other in scene.objects)
        if fitting == 1:
            noun = () if "shape" in form else ("object",)
            names.append(" ".join(wanted + noun))
    if item.letter is not None and "letter" not in hidden:
        names.append(f"object with the letter {item.letter}")
    return names


def describe(scene: Scene) -> str:
    """The whole scene in sentences: every object in reading order with its place, size, colour, shape and letter."""
    sentences = [f"The image shows {len(scene.objects)} objects."]
    for item in scene.objects:
        letter = "no letter" if item.letter is None else f"the letter {item.letter}"
        sentences.append(f"In the {place(item.row, item.column)}, there is {description(item)} with {letter}.")
    return " ".join(sentences)
