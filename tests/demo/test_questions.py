"""The questions: answers recomputed here from the objects, uniqueness of what they name, balance of the sets."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest

from prefixkv.demo.naming import COLUMN_WORDS, PLURALS, ROW_WORDS
from prefixkv.demo.questions import KINDS, Question, question_set, scene_questions
from prefixkv.demo.scenes import TRAINING_SEED_START, Scene, SceneObject, draw_scene
from tools.demo.evaluate import messages

SINGULARS = {plural: shape for shape, plural in PLURALS.items()}
OFFSETS = {"below": (1, 0), "above": (-1, 0), "to the right": (0, 1), "to the left": (0, -1)}


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    scenes = [draw_scene(seed) for seed in range(60)]
    return [(scene, question) for scene in scenes for question in scene_questions(scene, 3)]


def matching(scene: Scene, name: str) -> list[SceneObject]:
    """The objects that a name such as `large red star` or `object with the letter K` fits."""
    found = list(scene.objects)
    if letter := re.search(r"with the letter ([A-Z])$", name):
        return [item for item in found if item.letter == letter.group(1)]
    for word in name.split():
        if word not in ("object", "a", "an", "the"):
            found = [item for item in found if word in (item.size, item.colour, item.shape)]
    return found


def only(scene: Scene, name: str) -> SceneObject:
    found = matching(scene, name)
    assert len(found) == 1, name
    return found[0]


def named_in(question: str) -> str:
    text = re.sub(r" (have|on)?\?$|[?.]$", "", question)
    return re.split(r"\bthe (?!letter|colour|color|shape|position)", text, maxsplit=1)[1]


def cell_of(question: str) -> tuple[int, int]:
    if numerals := re.search(r"row (\d), column (\d)", question):
        return int(numerals.group(1)) - 1, int(numerals.group(2)) - 1
    words = re.search(r"(\w+) row, (\w+) column", question)
    assert words
    return ROW_WORDS.index(words.group(1)), COLUMN_WORDS.index(words.group(2))


def words_for(item: SceneObject | None) -> str:
    return f"a {item.size} {item.colour} {item.shape}" if item else "nothing"


def count(scene: Scene, question: str) -> str:
    for word in re.findall(r"\w+", question):
        if word in SINGULARS:
            return str(sum(item.shape == SINGULARS[word] for item in scene.objects))
    for word in re.findall(r"\w+", question):
        if any(word in colours for colours in [("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")]):
            return str(sum(item.colour == word for item in scene.objects))
    return str(len(scene.objects))


def expected(scene: Scene, kind: str, question: str) -> str:
    if kind in ("count_shape", "count_colour", "count_all", "next_count"):
        return count(scene, question)
    if kind == "colour":
        return only(scene, named_in(question)).colour
    if kind == "shape":
        return only(scene, named_in(question)).shape
    if kind == "letter":
        return str(only(scene, named_in(question)).letter)
    if kind == "place":
        item = only(scene, named_in(question))
        return f"{ROW_WORDS[item.row]} row, {COLUMN_WORDS[item.column]} column"
    if kind == "cell":
        return words_for(scene.at(*cell_of(question)))
    if kind in ("larger", "left"):
        first, second = (part.rstrip("?") for part in re.split(r"[,:] the ", question)[1].split(" or the "))
        items = only(scene, first), only(scene, second)
        if kind == "larger":
            widths = [item.box[2] - item.box[0] for item in items]
            assert abs(widths[0] - widths[1]) > 15
            return f"the {first if widths[0] > widths[1] else second}"
        edges = [item.box[0] for item in items]
        assert edges[0] != edges[1]
        return f"the {first if edges[0] < edges[1] else second}"
    if kind == "letters":
        return ", ".join(item.letter for item in scene.objects if item.letter)
    noun = re.search(r"\b(an? .*?)(?: in the image)?\?$", question)
    assert noun
    return "yes" if matching(scene, noun.group(1)) else "no"


def neighbour(scene: Scene, item: SceneObject, question: str) -> SceneObject | None:
    down, right = next(offset for words, offset in OFFSETS.items() if words in question)
    assert 0 <= item.row + down < 4
    assert 0 <= item.column + right < 4
    return scene.at(item.row + down, item.column + right)


def test_answers_are_what_the_objects_say(asked):
    checked = Counter()
    for scene, question in asked:
        if question.kind not in ("describe", "next"):
            assert question.answer == expected(scene, question.kind, question.question), question
            checked[question.kind] += 1
    assert set(checked) == set(KINDS) - {"describe", "next"}


def test_follow_ups_speak_of_the_object_before(asked):
    for scene, question in asked:
        if question.kind != "next":
            continue
        opening, answer = question.context[0]
        if re.search(r"row \d|row,", opening):
            item = scene.at(*cell_of(opening))
            assert answer == words_for(item)
            after = "object"
        else:
            item = only(scene, named_in(opening))
            after = "colour" if "colo" in opening else "shape" if "shape" in opening else "object"
        for text, said in [*question.context[1:], (question.question, question.answer)]:
            assert item is not None
            item = neighbour(scene, item, text)
            assert said == (words_for(item) if after == "object" else getattr(item, after))


def test_a_description_names_every_object_in_reading_order(asked):
    for scene, question in asked:
        if question.kind == "describe":
            sentences = question.answer.split(". ")[1:]
            assert len(sentences) == len(scene.objects)
            for sentence, item in zip(sentences, scene.objects, strict=True):
                assert words_for(item) in sentence
                assert f"{ROW_WORDS[item.row]} row, {COLUMN_WORDS[item.column]} column" in sentence
                assert ("no letter" if item.letter is None else f"letter {item.letter}") in sentence


def test_sets_are_balanced_repeatable_and_apart_from_training():
    pairs = question_set(60, 5)
    assert Counter(question.kind for _, question in pairs) == dict.fromkeys(KINDS, 4)
    assert max(scene.seed for scene, _ in pairs) < TRAINING_SEED_START
    assert [question for _, question in pairs] == [question for _, question in question_set(60, 5)]
    assert not {scene.seed for scene, _ in pairs} & {scene.seed for scene, _ in question_set(60, 6)}


def test_no_constant_answer_does_well():
    answers: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for _, question in question_set(600, 8):
        answers[question.kind][question.answer] += 1
    shares = {kind: max(found.values()) / sum(found.values()) for kind, found in answers.items()}
    assert max(shares.values()) < 0.75
    assert sum(shares.values()) / len(shares) < 0.35


def test_the_questions_of_a_seed_never_change():
    text = repr([question for seed in range(10) for question in scene_questions(draw_scene(seed), 1)])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "8db8655840531557e2772638338d276b44277648fbee185dcfeb3fc2099f69dc"
    )


def test_messages_carry_the_picture_in_the_first_turn_only():
    question = Question("next", "And the one below it?", "red", (("What colour is the star?", "blue"),))
    turns = messages(question)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert [[part["type"] for part in turn["content"]] for turn in turns] == [["image", "text"], ["text"], ["text"]]
