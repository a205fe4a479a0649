"""What stands for a picture in a model's texts, and may therefore not stand in a user's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prefixkv.errors import PrefixKVError

_MARK_NAME = re.compile(r"(boi|eoi|(.*_)?(image|video|audio|vision)(_.*)?)_token")
"""Attributes of processors and tokenizers that hold a mark of a picture, a film or a sound."""


def picture_marks(processor: Any) -> set[str]:
    """What stands for a picture, a film or a sound in the model's texts.

    Args:
        processor: a processor or a bare tokenizer of transformers.
    """
    holders = (processor, getattr(processor, "tokenizer", None))
    named = [item for holder in holders if holder is not None for item in vars(holder).items()]
    for holder in holders:
        named += getattr(holder, "special_tokens_map", {}).items()
    return {mark for name, mark in named if _MARK_NAME.fullmatch(name) and isinstance(mark, str) and len(mark) > 2}


def check_texts(texts: Iterable[str], processor: Any) -> None:
    """Refuse what would be read as something else.

    A text that has the model's own mark of a picture would be taken for one more picture; and bytes that are no UTF-8,
    which an argument or a file name may have, are no text for a tokenizer.

    Args:
        texts: of a conversation.
        processor: a processor or a bare tokenizer of transformers.

    Raises:
        PrefixKVError: a text holds such a mark, or such bytes.
    """
    marks = picture_marks(processor)
    for text in texts:
        if mark := next((mark for mark in marks if mark in text), None):
            raise PrefixKVError(f"the text holds {mark!r}, which is this model's mark of a picture: write it otherwise")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PrefixKVError("the text holds bytes that are no UTF-8: give it in UTF-8")
