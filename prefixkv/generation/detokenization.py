"""Text from tokens as they come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


class Detokenizer:
    """Turns tokens into pieces of text whose sum is the text of all of them.

    A token may be part of a character, and how a token is spelt may depend on the one before it; so each piece is the
    difference between two decodings of the last few tokens, and it waits until its last character is whole.
    """

    def __init__(self, tokenizer: Any, left_out: Collection[int] | None = None) -> None:
        """Start an empty text.

        Args:
            tokenizer: of transformers.
            left_out: ids that leave no text; all special tokens where None.
        """
        self._tokenizer, self._left_out = tokenizer, left_out
        self._tokens: list[int] = []
        self._context = self._emitted = 0

    def push(self, token: int) -> str:
        """Add a token.

        Returns:
            The text that is certain now and was not returned before; may be empty.
        """
        self._tokens.append(token)
        before = self._decode(self._context, self._emitted)
        now = self._decode(self._context, len(self._tokens))
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._context, self._emitted = self._emitted, len(self._tokens)
        return now[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return decoded(self._tokenizer, self._tokens[start:stop], self._left_out)


def decoded(tokenizer: Any, tokens: Sequence[int], left_out: Collection[int] | None = None) -> str:
    """The text of all of some tokens.

    Args:
        tokenizer: of transformers.
        tokens: ids.
        left_out: ids that leave no text; all special tokens where None.
    """
    if left_out is None:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))
    return str(tokenizer.decode([token for token in tokens if token not in left_out], skip_special_tokens=False))
