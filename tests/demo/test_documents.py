"""Drawn documents: the same everywhere, answers found again here in the text that is drawn, letters in place."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prefixkv.demo import weights_path
from prefixkv.demo.documents import DOCUMENT_KINDS, faces
from prefixkv.demo.documents.chart import Chart
from prefixkv.demo.documents.document import Document, compose_content, draw_document
from prefixkv.demo.documents.questions import READING_KINDS, document_questions, document_set
from prefixkv.demo.questions import KINDS, Question
from prefixkv.demo.scenes import TRAINING_SEED_START
from prefixkv.errors import PrefixKVError
from tools.demo.edit_distance import edit_distance
from tools.demo.reading_labels import LABELS, UNKNOWN, patch_labels

Rows = list[list[str]]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [draw_document(seed, DOCUMENT_KINDS[seed % len(DOCUMENT_KINDS)]) for seed in range(30)]


def printed_rows(content: object) -> Rows:
    """The rows of cells as drawn; for a chart its labels and values."""
    if isinstance(content, Chart):
        return [[label, str(value)] for label, value in zip(content.labels, content.values, strict=True)]
    return [list(row) for row in content.sheet.rows]  # type: ignore[attr-defined]


def answer(kind: str, rows: Rows, question: str) -> str:
    """The answer to a first question, found in the printed rows alone."""
    solve = {"receipt": receipt_answer, "form": form_answer, "table": table_answer, "chart": chart_answer}
    return solve.get(kind, lines_answer)(rows, question)


def word_in(options: list[str], question: str) -> list[str]:
    """The options that a question names, in its order."""
    named = [
        (question.find(f" {option}"), option) for option in options if re.search(rf" {re.escape(option)}\b", question)
    ]
    return [option for _, option in sorted(named)]


def receipt_answer(rows: Rows, question: str) -> str:
    prices = {row[0]: row[1] for row in rows if len(row) == 2}
    total = prices.pop(next(name for name in prices if name.lower() in ("total", "sum")))
    cents = {name: int(price.replace(".", "")) for name, price in prices.items()}
    assert int(total.replace(".", "")) == sum(cents.values())
    if "total" in question:
        return total
    if "most" in question:
        return max(cents, key=lambda name: cents[name])
    if "items" in question:
        return str(len(cents))
    if "receipt list" in question or question.startswith("Is there"):
        return "yes" if word_in(list(cents), question) else "no"
    if amount := re.search(r"\d+\.\d\d", question):
        return next(name for name, price in prices.items() if price == amount.group())
    if "more" in question:
        one, other = word_in(list(cents), question)
        return one if cents[one] > cents[other] else other
    if "date" in question:
        return rows[1][0].split()[0]
    if "time" in question:
        return rows[1][0].split()[1]
    named = word_in(list(prices), question)
    return prices[named[0]] if named else rows[0][0]


def form_answer(rows: Rows, question: str) -> str:
    fields = {row[0].rstrip(":"): row[1] for row in rows[1:]}
    if "fields" in question:
        return str(len(fields))
    if question.startswith(("Which field says", "In which field", "Where is")):
        return next(
            field
            for field, value in fields.items()
            if re.search(rf"\b{re.escape(value)}( written)?\?$", question)
            and question.split(value)[0].rstrip() in ("Which field says", "In which field is", "Where is")
        )
    field = next(field for field in fields if re.search(rf"\b(the|at|field|Which) {field.lower()}\b", question))
    if question.startswith(("Is the", "Does the")):
        return "yes" if question.removesuffix("?").endswith(f" {fields[field]}") else "no"
    return fields[field]


def table_answer(rows: Rows, question: str) -> str:
    headings, body = [heading.lower() for heading in rows[0][1:]], {row[0]: row[1:] for row in rows[1:]}
    names = word_in(list(body), question)
    if re.search("people|names", question):
        return str(len(body))
    if "table" in question:
        return "yes" if names else "no"
    column = headings.index(next(heading for heading in headings if re.search(rf"\b{heading}\b", question)))
    if "largest" in question:
        return max(body, key=lambda name: int(body[name][column]))
    if question.startswith("Who has") and len(names) == 2:
        return max(names, key=lambda name: int(body[name][column]))
    if question.startswith(("Who has the", "Whose")):
        return next(name for name, cells in body.items() if re.search(rf" {re.escape(cells[column])}\?$", question))
    return body[names[0]][column]


def chart_answer(rows: Rows, question: str) -> str:
    values = {label: int(value) for label, value in rows}
    named = word_in(list(values), question)
    if re.search("How many|Count", question):
        return str(len(values))
    if re.search("largest|highest", question):
        return max(values, key=lambda label: values[label])
    if value := re.search(r"(?:has|is) the value (\d+)", question):
        return next(label for label in values if values[label] == int(value.group(1)))
    if re.search("difference|far apart", question):
        return str(abs(values[named[0]] - values[named[1]]))
    if question.startswith("Is "):
        return "yes" if values[named[0]] > values[named[1]] else "no"
    if len(named) == 2:
        return max(named, key=lambda label: values[label])
    return str(values[named[0]])


def lines_answer(rows: Rows, question: str) -> str:
    lines = [row[0] for row in rows]
    if "sign" in question:
        return "\n".join(lines)
    if "last line" in question:
        return lines[-1]
    if number := re.search(r"line (\d)", question):
        return lines[int(number.group(1)) - 1]
    if re.search("How many|Count", question):
        return str(len(lines))
    word = re.search(r"(?:word|say|read|is) (\S+?)(?: in the text)?\?$", question)
    assert word
    found = [str(number) for number, line in enumerate(lines, start=1) if word.group(1) in line.split()]
    if question.startswith(("In which line", "Which line")):
        assert len(found) == 1
        return found[0]
    return "yes" if found else "no"


def full_question(kind: str, question: Question) -> str:
    """A second question as one that stands alone: the first with the other thing in its place."""
    if not question.context:
        return question.question
    other = re.search(r"(?:And|What about) (?:the )?(.+)\?$", question.question)
    assert other
    first = question.context[0][0]
    if kind in ("sign", "note"):
        return f"Read {other.group(1)}."
    if kind == "form":
        return f"What is the {other.group(1)}?"
    if kind == "table":
        return re.sub(r" (of \S+?|does \S+ have)([?.])$", rf" of {other.group(1)}\2", first)
    return f"What is the {'price' if kind == 'receipt' else 'value'} of {other.group(1)}?"


def test_every_answer_is_what_the_printed_text_says():
    asked: Counter[str] = Counter()
    for seed in range(400):
        kind, content = compose_content(seed)
        rows = printed_rows(content)
        for question in document_questions(kind, content, 3, seed):
            asked[question.kind] += 1
            if question.kind == "transcription":
                assert question.answer == "\n".join(" ".join(row) for row in rows)
                continue
            for first, said in question.context:
                assert answer(kind, rows, first) == said, (kind, first, said)
            assert answer(kind, rows, full_question(kind, question)) == question.answer, (kind, question, rows)
    assert set(asked) == set(READING_KINDS)
    assert not set(READING_KINDS) & set(KINDS)


def test_a_seed_gives_the_same_questions_everywhere():
    asked = [question for seed in range(60) for question in document_questions(*compose_content(seed), 1, seed)]
    assert hashlib.sha256(repr(asked).encode()).hexdigest()[:16] == "2f5e547c782cdf1d"


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    one, again, other = draw_document(4, "note"), draw_document(4, "note"), draw_document(5, "note")
    assert one.image.tobytes() == again.image.tobytes()
    assert one.letters == again.letters
    assert one.image.tobytes() != other.image.tobytes()


def test_a_set_is_even_fresh_and_begins_with_a_smaller_one():
    from transformers import PreTrainedTokenizerFast

    pairs = document_set(400, 8)
    assert set(Counter(question.kind for _, _, question in pairs).values()) == {40}
    assert pairs[:30] == document_set(30, 8)
    assert all(seed < TRAINING_SEED_START for seed, _, _ in pairs)
    assert not {seed for seed, _, _ in pairs} & {seed for seed, _, _ in document_set(400, 9)}
    yes = Counter(question.answer for _, _, question in document_set(1000, 3) if question.kind == "yes_no")
    assert 35 <= yes["yes"] <= 65
    tokenizer = PreTrainedTokenizerFast.from_pretrained(weights_path())
    texts = [question.answer for _, _, question in pairs if question.kind == "transcription"]
    assert min(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts) >= 60


def test_letters_in_reading_order_are_the_text(documents):
    for document in documents:
        if isinstance(document.content, Chart):
            continue
        lines: dict[int, dict[int, str]] = {}
        for letter in document.letters:
            lines.setdefault(letter.line, {})[letter.place] = letter.character
        text = "\n".join(
            "".join(places.get(place, " ") for place in range(max(places) + 1)) for _, places in sorted(lines.items())
        )
        assert text == document.content.sheet.text


def test_letters_and_marks_lie_where_there_is_ink(documents):
    for document in documents:
        width, height = document.image.size
        assert 300 <= width <= 520
        assert 264 <= height <= 583
        pixels = np.asarray(document.image.convert("L"), dtype=float)
        paper = np.median(pixels)
        for spot in (*document.letters, *document.marks):
            assert 0 <= spot.x < width
            assert 0 <= spot.y < height
        far = [
            np.abs(pixels[int(y) - 12 : int(y) + 13, int(x) - 12 : int(x) + 13] - paper).max()
            for letter in document.letters
            for x, y in [(letter.x, letter.y)]
            if letter.character.isalnum() and 12 < letter.x < width - 12 and 12 < letter.y < height - 12
        ]
        assert min(far) > 40
    assert len({document.image.size for document in documents}) > 5


def test_patch_labels_say_what_lies_under_a_patch(documents):
    for document in documents:
        labels = patch_labels(document)
        assert labels.shape == (576, 1 + len(LABELS))
        seen = Counter(chr(code + 32) for row in labels[labels[:, 0] == 1] for code in row[1:4] if code)
        missing = Counter(letter.character for letter in document.letters) - seen
        assert sum(missing.values()) <= 0.02 * len(document.letters)
        assert not seen - Counter(letter.character for letter in document.letters)
        values = labels[:, -2][labels[:, -2] != UNKNOWN]
        assert set(values) <= {mark.value for mark in document.marks}


@pytest.mark.parametrize(("right", "said", "far"), [("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)])
def test_edit_distance(right, said, far):
    assert edit_distance(right, said) == far == edit_distance(said, right)


def test_missing_fonts_are_said_in_one_line(monkeypatch):
    monkeypatch.setattr(faces, "_folder", lambda: Path("nowhere"))
    faces.load_face.cache_clear()
    with pytest.raises(PrefixKVError, match=r"font DejaVuSans.ttf is missing: reinstall matplotlib"):
        faces.load_face("DejaVuSans", 20)
