"""Calibration samples: pictures with prompts, from a folder, a data file, or drawn; or pieces of a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from prefixkv.documents import read_json, read_text
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.images import open_image
from prefixkv.inputs.picture_source import open_source

DEFAULT_PROMPT = "Describe the image."
TEXT_CHARACTERS = 4000
"""Length of a piece of text: about a thousand tokens."""
TEXT_SUFFIXES = (".txt", ".md", ".rst")
"""What a folder of texts is read of."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


@dataclass(frozen=True)
class Sample:
    """One prompt, with or without a picture.

    Attributes:
        prompt: the question.
        image: RGB, or None.
        is_raw: whether the prompt is text to go on with, not a question to be put into the model's chat template.
    """

    prompt: str
    image: Image.Image | None
    is_raw: bool = False

    @property
    def image_sha256(self) -> str | None:
        """Digest of the picture's pixels; None without a picture."""
        return None if self.image is None else hashlib.sha256(self.image.tobytes()).hexdigest()


def drawn_samples(count: int, first_seed: int = 0) -> list[Sample]:
    """Scenes as the demo model's training draws them, each with one of its questions or a request to describe it."""
    from prefixkv.demo.questions import scene_questions
    from prefixkv.demo.scenes import draw_scene

    samples = []
    for seed in range(first_seed, first_seed + count):
        scene = draw_scene(seed)
        asked = [question.question for question in scene_questions(scene, seed) if not question.context]
        samples.append(Sample(DEFAULT_PROMPT if seed % 2 else asked[seed % len(asked)], scene.image))
    return samples


def document_samples(count: int, first_seed: int = 0) -> list[Sample]:
    """Drawn documents, each with one of its questions; every other one that has a text is to be read out whole."""
    from prefixkv.demo.documents.document import draw_document
    from prefixkv.demo.documents.questions import document_questions

    samples = []
    for seed in range(first_seed, first_seed + count):
        document = draw_document(seed)
        questions = document_questions(document.kind, document.content, seed, seed)
        asked = [question.question for question in questions if not question.context]
        # The request to read it out is the last one; a chart has none.
        samples.append(Sample(asked[-1] if seed % 2 else asked[seed % len(asked)], document.image))
    return samples


def folder_samples(folder: Path, count: int, prompts: Sequence[str] = (DEFAULT_PROMPT,)) -> list[Sample]:
    """The first pictures of a folder in the order of their names, with the prompts in turn.

    Raises:
        PrefixKVError: the folder is missing or holds no pictures, or a picture cannot be read.
    """
    paths = picture_paths(folder)[:count]
    return [Sample(prompts[index % len(prompts)], open_image(str(path))) for index, path in enumerate(paths)]


def picture_paths(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their names; one at least.

    Raises:
        PrefixKVError: the folder is missing or holds no pictures.
    """
    if not folder.is_dir():
        raise PrefixKVError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise PrefixKVError(f"folder {folder} holds no pictures ({', '.join(_SUFFIXES)})")
    return paths


def text_samples(path: Path, count: int) -> list[Sample]:
    """Pieces of a text, spread evenly over it, which the model is to go on with.

    Args:
        path: a text file, or a folder of such, read one behind the other in the order of their names.
        count: how many; fewer where the text has no room for so many that do not overlap.

    Raises:
        PrefixKVError: the file cannot be read, or is too short for one piece.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in TEXT_SUFFIXES)
    text = "\n".join(map(read_text, files))
    room = len(text) // TEXT_CHARACTERS
    if not room:
        raise PrefixKVError(f"{path} is too short: give a text of {TEXT_CHARACTERS:,} characters or more")
    count = min(count, room)
    starts = [index * (len(text) - TEXT_CHARACTERS) // max(1, count - 1) for index in range(count)]
    return [Sample(text[start : start + TEXT_CHARACTERS], None, is_raw=True) for start in starts]


def data_samples(path: Path, count: int, images: Path | None = None) -> list[Sample]:
    """Samples of a JSON list shaped as LLaVA's (`image`, `conversations`) or MM-Vet's (`image`, `question`).

    Args:
        path: the list, or MM-Vet's object of such objects.
        count: how many to take, from the first on.
        images: folder of the pictures; beside the file where None.

    Raises:
        PrefixKVError: the file has another shape, or a picture cannot be read.
    """
    content = read_json(path)
    items = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(items, list) or not items:
        raise PrefixKVError(f"{path} is no list of samples: each needs `image` and `question` or `conversations`")
    folder = path.parent if images is None else images
    return [_sample(item, index, path, folder) for index, item in enumerate(items[:count])]


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file, the empty ones left out.

    Raises:
        PrefixKVError: the file cannot be read or holds no line.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    if not any(lines):
        raise PrefixKVError(f"{path} holds no prompt: write one a line")
    return [line for line in lines if line]


def _sample(item: Any, index: int, path: Path, folder: Path) -> Sample:
    try:
        image = item.get("image", item.get("imagename"))
        prompt = item["question"] if "question" in item else item["conversations"][0]["value"]
        prompt = prompt.replace("<image>", "").strip()
    except (KeyError, IndexError, AttributeError, TypeError):
        raise PrefixKVError(f"{path}: sample {index} has no `question` and no `conversations` with a `value`") from None
    return Sample(prompt, open_source(image, folder) if isinstance(image, str) else None)
