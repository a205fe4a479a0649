"""The lines of a batch file: one JSON object each, with a prompt and its pictures. Knows nothing of torch."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from prefixkv.documents import encoding_of, parse_json
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.parts import read_parts
from prefixkv.inputs.picture_source import open_source
from prefixkv.inputs.template_args import check_template_args
from prefixkv.inputs.turn import Layout
from prefixkv.schemas.field import refusal, shown
from prefixkv.schemas.line import BatchLineSchema

SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")
"""Fields of a line that say how its answer is chosen, as `prefixkv.generation.sampling` knows them."""
OWN = ("template_args", "max_pixels", "keep_marks")
"""Fields that say what is made of its text, its pictures and its answer, where it is not what holds for all lines."""
SHAPE = 'give an object such as {"image": "cat.jpg", "prompt": "What is this?"}'


@dataclass(frozen=True)
class Line:
    """One question, or what is wrong with its line.

    Attributes:
        number: of the line in the file, from 1 on.
        digest: of what is asked, so that a changed line is asked again, and one that has only moved is not; of the text
            of a bad line.
        prompt: the question.
        sources: paths, absolute or from the file's folder, or http(s) addresses.
        label: the line's own `id`, if it has one.
        system: its own instructions before the question; empty for none.
        sampling: what it says of how its answer is chosen: arguments of `Sampling`.
        layout: where the pictures stand in the prompt; None where all of them come before it.
        template_args: its own values for the model's chat template, by name; None for none.
        max_pixels: its own limit on a picture's pixels; None where it says none.
        keep_marks: whether special tokens are part of its answer; None where it does not say.
        error: why the line cannot be asked; None for a good one.
    """

    number: int
    digest: str
    prompt: str = ""
    sources: tuple[str, ...] = ()
    label: Any = None
    system: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    template_args: Mapping[str, Any] | None = None
    max_pixels: int | None = None
    keep_marks: bool | None = None
    error: str | None = None

    def pictures(self, folder: Path) -> tuple[Image.Image, ...]:
        """Open the line's pictures, RGB.

        Args:
            folder: what relative paths start from.

        Raises:
            PrefixKVError: one cannot be read; says why.
        """
        return tuple(open_source(source, folder) for source in self.sources)


def read_lines(path: Path) -> list[Line]:
    """All lines of a file but the empty ones; a bad line does no harm to the others.

    Raises:
        PrefixKVError: the file cannot be read, or holds no line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be read: {error.strerror}") from None
    return lines_of(data, str(path))


def lines_of(data: bytes, name: str) -> list[Line]:
    """The same of a file's content.

    Args:
        data: the content.
        name: what the user calls it.

    Raises:
        PrefixKVError: it holds no line.
    """
    lines = list(_parsed(data))
    if not lines:
        raise PrefixKVError(f"{name} holds no line: {SHAPE} on each")
    return lines


def lines_of_rows(rows: Sequence[Mapping[str, Any]], name: str = "the table") -> list[Line]:
    """The same of the rows of a table, whose columns are a line's fields; null stands for a field that is not there.

    Raises:
        PrefixKVError: it holds no row.
    """
    contents = [{field: value for field, value in row.items() if value is not None} for row in rows]
    return lines_of(b"\n".join(json.dumps(content, default=_plain).encode() for content in contents), name)


def _plain(value: Any) -> Any:
    """A value of numpy as one of Python; what JSON cannot hold is shown, so that the line's error names it."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def repeated(lines: Sequence[Line]) -> dict[int, Line]:
    """The lines that ask what an earlier one asks, by their number; each with that one, whose answer is theirs."""
    first: dict[str, Line] = {}
    return {line.number: first[line.digest] for line in lines if first.setdefault(line.digest, line) is not line}


def _parsed(data: bytes) -> Iterator[Line]:
    for number, raw in enumerate(_as_utf8(data).splitlines(), start=1):
        if not raw.strip():
            continue
        digest = _digest(raw.strip())
        try:
            yield _line(parse_json(raw), number, digest)
        except UnicodeDecodeError:
            yield Line(number, digest, error="this is no UTF-8: save the file as UTF-8")
        except ValueError:
            yield Line(number, digest, error=f"this is no JSON: {SHAPE}")
        except PrefixKVError as error:
            yield Line(number, digest, error=str(error))


def _line(content: Any, number: int, digest: str) -> Line:
    if not isinstance(content, dict):
        raise PrefixKVError(f"this is no JSON object: {SHAPE}")
    label = content.get("id")
    try:
        json.dumps(label, allow_nan=False)
    except (ValueError, RecursionError):
        return Line(number, digest, error="the id is no value that JSON can hold: give a text or a number")
    try:
        return _asked(content, BatchLineSchema.model_validate(content), number)
    except ValidationError as error:
        return Line(number, digest, label=label, error=refusal(error))
    except OptionError as error:
        return Line(number, digest, label=label, error=str(error))


def _asked(content: dict[str, Any], given: BatchLineSchema, number: int) -> Line:
    """The line.

    Args:
        content: as its file has it: numbers in the digest of a line are as they are written.
        given: the same, checked.
        number: of the line.

    Raises:
        OptionError: its fields do not fit each other.
    """
    prompt, sources, layout = given.prompt, given.image if "image" in content else given.images, None
    if given.parts is not None:
        if prompt is not None or sources:
            raise OptionError("parts hold the texts and the pictures: give either them, or a prompt and an image")
        parts = read_parts(given.parts)
        if odd := [picture for picture in parts.pictures if not isinstance(picture, str)]:
            raise OptionError(f"the picture of a part is {shown(odd[0])}: give a path or an address")
        prompt, sources, layout = parts.prompt, list(parts.pictures), parts.layout
    if prompt is None:
        raise OptionError(f"the prompt is missing: {SHAPE}")
    sampling = {name: content[name] for name in SAMPLING if content.get(name) is not None}
    sampling |= {"stop": tuple(given.stop)} if given.stop else {}
    own = {name: content[name] for name in OWN if content.get(name) is not None}
    check_template_args(given.template_args)
    Sampling(**sampling)
    asked = sampling | own | ({"system": given.system} if given.system else {}) | ({"layout": layout} if layout else {})
    digest = line_digest(prompt, sources, asked)
    return Line(number, digest, prompt, tuple(sources), given.id, given.system or "", sampling, layout, **own)


def line_digest(prompt: str, sources: Sequence[str], asked: Mapping[str, Any]) -> str:
    """Digest of what a line asks.

    Args:
        prompt: the question.
        sources: of its pictures.
        asked: its own settings, by name.
    """
    return _digest(json.dumps([prompt, list(sources), dict(asked)], sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _as_utf8(data: bytes) -> bytes:
    """The bytes of a text in UTF-8, see `encoding_of`; what is UTF-8 already may have lines that are none.

    Raises:
        PrefixKVError: it is in another encoding, and broken.
    """
    encoding = encoding_of(data)
    if encoding == "utf-8-sig":
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode(errors="surrogatepass")
    except UnicodeError as error:
        raise PrefixKVError(f"the file is in {encoding[:6].upper()}, and broken ({error}): save it as UTF-8") from error
