"""A question as a list of texts and pictures, in the style of chat messages of transformers and of OpenAI's API.

Knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import OptionError
from prefixkv.inputs.turn import Layout, prompt_of

_SHAPE = 'give {"text": TEXT} or {"image": PATH}'
_PICTURE_NAMES = ("image", "image_url", "url", "path")


@dataclass(frozen=True)
class Parts:
    """A question that was given in parts.

    Attributes:
        layout: its texts, and None for each picture.
        pictures: as they were given, in order.
    """

    layout: Layout
    pictures: tuple[Any, ...]

    @property
    def prompt(self) -> str:
        """All texts as one."""
        return prompt_of(self.layout)


def read_parts(given: Any) -> Parts:
    """Take a list of parts apart.

    Args:
        given: a list; each `{"text": TEXT}` or `{"image": PICTURE}`, with or without a `type`; also
            `{"type": "image_url", "image_url": {"url": ADDRESS}}`.

    Raises:
        OptionError: it is no list, a part is neither, or no text is among them.
    """
    if not isinstance(given, (list, tuple)):
        raise OptionError(f"parts is {_shown(given)}: give a list of texts and pictures")
    layout: list[str | None] = []
    pictures: list[Any] = []
    for number, part in enumerate(given, start=1):
        text, picture = _one(part, number)
        layout.append(text)
        if text is None:
            pictures.append(picture)
    if not any(text is not None and text.strip() for text in layout):
        raise OptionError("the parts hold no text: ask something beside the pictures")
    return Parts(tuple(layout), tuple(pictures))


def _one(part: Any, number: int) -> tuple[str | None, Any]:
    """A part's text, or None and its picture."""
    if not isinstance(part, Mapping):
        raise OptionError(f"part {number} is {_shown(part)}: {_SHAPE}")
    kind = part.get("type")
    if kind not in (None, "text", "image", "image_url"):
        raise OptionError(f"part {number} has the type {_shown(kind)}, and may be text or image: {_SHAPE}")
    text, found = part.get("text"), [part[name] for name in _PICTURE_NAMES if part.get(name) is not None]
    if isinstance(text, str) and not found and kind in (None, "text"):
        return text, None
    if text is None and len(found) == 1 and kind != "text":
        picture = found[0].get("url") if isinstance(found[0], Mapping) else found[0]
        if picture is not None and picture != "":
            return None, picture
    raise OptionError(f"part {number} is neither a text nor one picture: {_SHAPE}")


def _shown(value: Any) -> str:
    return repr(value)[:200]
