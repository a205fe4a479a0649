"""What is asked in an evaluation: drawn pictures, the paper's data files, or plain text. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from prefixkv.documents import read_json, read_text
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.inputs.images import open_image
from prefixkv.inputs.picture_source import open_source
from prefixkv.profiles.calibration import TEXT_SUFFIXES, picture_paths

DATA_HELP = (
    "scenes[:N[:SEED]], followups[:N[:SEED]], documents[:N[:SEED]], needle[:TOKENS[:SEED]], text:FILE, "
    "pictures:FOLDER, or a JSON file shaped as LLaVA-Description or MM-Vet"
)
DEFAULT_COUNT, DEFAULT_SEED = 200, 1
NEEDLE_TOKENS, LEAST_NEEDLE_TOKENS, NEEDLE_TEXTS = 2000, 100, 40
"""Of long texts with facts in them: their tokens, the fewest, and how many texts: each of 20 depths twice."""
ASKED_OF_PICTURES = ("Describe the image.", "What does the text in the image say?", "How many things are there?")
"""What is asked of pictures that come without questions, in turn; the full cache's answers are the reference."""
FIRST_TOKENS = ("cache", "prompt")
"""Where an answer's first token comes from: a decoding step on the compressed cache, which reads the last token of the
prompt; or the prompt's own pass, before anything is evicted, as in the paper."""


@dataclass(frozen=True)
class Question:
    """One question, with what was said before it.

    Attributes:
        text: the question.
        answer: the right answer; None where the data has none.
        kind: kind of the question, where the data has kinds.
        context: earlier (question, answer) pairs of the conversation.
        picture: opens the picture of the conversation, RGB; None where there is none.
    """

    text: str
    answer: str | None = None
    kind: str | None = None
    context: tuple[tuple[str, str], ...] = ()
    picture: Callable[[], Image.Image] | None = None


@dataclass(frozen=True)
class DataSource:
    """Where samples come from, as the user names it.

    Attributes:
        kind: drawn scenes, drawn scenes with an unrelated second question, drawn documents, facts in long texts, plain
            text, pictures without questions, or a data file.
        path: the file, or the folder of text files or pictures.
        count: how many samples are taken; all where None.
        seed: of drawn scenes and documents.
        images: folder of a data file's pictures; beside the file where None.
        follow_up: whether the question comes after the prompt and its first answer were compressed.
        text_tokens: of each long text with facts in it.
    """

    kind: Literal["scenes", "followups", "documents", "needle", "text", "pictures", "file"]
    path: Path | None = None
    count: int | None = None
    seed: int = DEFAULT_SEED
    images: Path | None = None
    follow_up: bool = False
    text_tokens: int = 0

    @classmethod
    def parse(
        cls, text: str, limit: int | None = None, images: Path | None = None, follow_up: bool = False
    ) -> DataSource:
        """Read `--data`.

        Args:
            text: what the user gave.
            limit: take no more samples than this.
            images: folder of a data file's pictures.
            follow_up: ask the last question after the conversation before it was compressed.

        Raises:
            OptionError: the text names no data, or a number is not allowed.
            PrefixKVError: the file is missing.
        """
        if limit is not None and limit < 1:
            raise OptionError(f"limit {limit} is too small: give 1 or more")
        kind, _, rest = text.partition(":")
        if images is not None and kind in ("scenes", "followups", "documents", "needle", "text", "pictures"):
            raise OptionError(f"--images is the folder of a JSON file's pictures: data {text!r} has no such")
        if kind in ("scenes", "followups"):
            count, seed = _numbers(text, rest, DEFAULT_COUNT, 1)
            follow_up = follow_up or kind == "followups"
            count = count if limit is None else min(count, limit)
            return cls("followups" if follow_up else "scenes", None, count, seed, None, follow_up)
        if kind == "documents":
            if follow_up:
                raise OptionError("documents have no unrelated second questions: --follow-up needs followups or a file")
            count, seed = _numbers(text, rest, DEFAULT_COUNT, 1)
            return cls("documents", None, count if limit is None else min(count, limit), seed)
        if kind == "needle":
            tokens, seed = _numbers(text, rest, NEEDLE_TOKENS, LEAST_NEEDLE_TOKENS)
            return cls("needle", None, limit or NEEDLE_TEXTS, seed, None, True, tokens)
        if kind == "text":
            if follow_up:
                raise OptionError("plain text has no questions: --follow-up needs followups or a JSON file")
            return cls("text", _existing(rest, text), limit)
        if kind == "pictures":
            if follow_up:
                raise OptionError("pictures come without questions: --follow-up needs followups or a JSON file")
            return cls("pictures", _existing(rest, text), limit)
        path = _existing(text, text)
        if path.suffix.lower() in TEXT_SUFFIXES:
            raise OptionError(f"data {text!r} looks like plain text: give it as text:{text}")
        return cls("file", path, limit, DEFAULT_SEED, images, follow_up)

    def questions(self, count_tokens: Callable[[str], int] = len) -> list[Question]:
        """The questions, without plain text.

        Args:
            count_tokens: tells how many tokens a text has, for texts of so many.

        Raises:
            PrefixKVError: the file has another shape.
        """
        if self.kind in ("scenes", "followups"):
            from prefixkv.evaluation.drawn import followup_questions, scene_questions

            assert self.count is not None
            make = followup_questions if self.follow_up else scene_questions
            return make(self.count, self.seed)
        if self.kind == "documents":
            from prefixkv.evaluation.drawn import reading_questions

            assert self.count is not None
            return reading_questions(self.count, self.seed)
        if self.kind == "needle":
            from prefixkv.evaluation.needle import needle_questions

            assert self.count is not None
            return needle_questions(self.count, self.text_tokens, self.seed, count_tokens)
        assert self.path is not None
        if self.kind == "pictures":
            return picture_questions(self.path, self.count)
        return read_questions(self.path, self.count, self.images, self.follow_up)

    def texts(self) -> list[str]:
        """The text files' contents, in the order of their names.

        Raises:
            PrefixKVError: there is none, or one cannot be read as text.
        """
        assert self.path is not None
        paths = [self.path]
        if self.path.is_dir():
            paths = sorted(path for path in self.path.iterdir() if path.suffix.lower() in TEXT_SUFFIXES)
        texts = [read_text(path) for path in paths]
        if not any(text.strip() for text in texts):
            raise PrefixKVError(
                f"{self.path} holds no text: give a file, or a folder of {', '.join(TEXT_SUFFIXES)} files"
            )
        return texts

    def digest(self) -> str:
        """What names the data, whatever the number of samples: the seed, or a digest of the contents."""
        if self.path is None:
            length = f"{self.text_tokens}:" if self.kind == "needle" else ""
            return f"{self.kind}:{length}{self.seed}"
        if self.kind == "pictures":
            content = b"".join(path.name.encode() + path.read_bytes() for path in _pictures(self.path))
        else:
            content = "\0".join(self.texts()).encode() if self.kind == "text" else self.path.read_bytes()
        return f"{self.kind}:{hashlib.sha256(content).hexdigest()[:16]}"


def picture_questions(path: Path, count: int | None) -> list[Question]:
    """One of `ASKED_OF_PICTURES` about each picture; of a single picture all of them.

    Args:
        path: a picture, or a folder of pictures.
        count: how many to take, from the first on; all where None.

    Raises:
        PrefixKVError: the folder holds no pictures.
    """
    paths = _pictures(path)
    samples = max(len(paths), len(ASKED_OF_PICTURES))
    asked = [
        Question(
            ASKED_OF_PICTURES[index % len(ASKED_OF_PICTURES)],
            picture=partial(open_image, str(paths[index % len(paths)])),
        )
        for index in range(samples)
    ]
    return asked[:count]


def _pictures(path: Path) -> list[Path]:
    return picture_paths(path) if path.is_dir() else [path]


def read_questions(path: Path, count: int | None, images: Path | None, follow_up: bool) -> list[Question]:
    """Questions of a JSON list in the shape of LLaVA-Description or of MM-Vet.

    Args:
        path: the list, or an object of such objects.
        count: how many to take, from the first on; all where None.
        images: folder of the pictures; beside the file where None.
        follow_up: take the second question of each conversation, the first one being its context.

    Raises:
        PrefixKVError: the file has another shape.
    """
    content = read_json(path)
    items = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(items, list) or not items:
        raise PrefixKVError(f"{path} is no list of samples: each needs `image` and `question` or `conversations`")
    folder = path.parent if images is None else images
    return [_question(item, index, path, folder, follow_up) for index, item in enumerate(items[:count])]


def _question(item: Any, index: int, path: Path, folder: Path, follow_up: bool) -> Question:
    said = _spoken(item, index, path)
    if follow_up and len(said) < 3:
        raise PrefixKVError(f"{path}: sample {index} has no second question in `conversations`: leave out --follow-up")
    context = ((said[0], said[1]),) if follow_up else ()
    question, *rest = said[2 if follow_up else 0 :]
    image = item.get("image", item.get("imagename"))
    picture = partial(open_source, image, folder) if isinstance(image, str) else None
    return Question(question, rest[0] if rest else None, None, context, picture)


def _spoken(item: Any, index: int, path: Path) -> list[str]:
    """Questions and answers of one sample in turn, up to where one is missing."""
    try:
        if "question" in item:
            said = [item["question"], *([] if item.get("answer") is None else [str(item["answer"])])]
        else:
            said = [turn["value"] for turn in item["conversations"]]
        texts = [text.replace("<image>", "").strip() for text in said]
    except (KeyError, AttributeError, TypeError):
        raise PrefixKVError(f"{path}: sample {index} has no `question` and no `conversations` with a `value`") from None
    if not texts or not texts[0]:
        raise PrefixKVError(f"{path}: the question of sample {index} is empty")
    return texts


def _numbers(text: str, rest: str, default: int, least: int) -> tuple[int, int]:
    """Count or length, and seed, behind the name of drawn data."""
    match = re.fullmatch(r"(\d+)?(?::(\d+))?", rest)
    if match is None or int(match[1] or default) < least:
        raise OptionError(f"data {text!r} is not understood: give {DATA_HELP}")
    return int(match[1] or default), int(match[2] or DEFAULT_SEED)


def _existing(name: str, text: str) -> Path:
    path = Path(name).expanduser()
    if not name or not path.exists():
        raise PrefixKVError(f"data {text!r} is not there: give {DATA_HELP}")
    return path
