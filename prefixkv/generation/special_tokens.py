"""Which of a model's special tokens leave no text in an answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from prefixkv.inputs.picture_marks import picture_marks


def left_out(processor: Any, stop_tokens: Collection[int], keep_marks: bool) -> frozenset[int] | None:
    """The ids that leave no text in an answer.

    Args:
        processor: a processor or a bare tokenizer of transformers.
        stop_tokens: ids that end an answer.
        keep_marks: whether special tokens, such as those of boxes, are part of it. What ends an answer, fills a row or
            stands for a picture never is: the next question would be refused for it, or end at it.

    Returns:
        None where these are all special tokens.
    """
    if not keep_marks:
        return None
    tokenizer = getattr(processor, "tokenizer", processor)
    marks = [tokenizer.convert_tokens_to_ids(mark) for mark in picture_marks(processor)]
    edges = (tokenizer.bos_token_id, tokenizer.pad_token_id)
    return frozenset(int(token) for token in (*stop_tokens, *marks, *edges) if isinstance(token, int))
