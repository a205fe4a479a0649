"""Text from tokens as they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from prefixkv.transformers_compat import token_decoder

_CUT_OFF = "\N{REPLACEMENT CHARACTER}"
"""What stands where the bytes of a character are not all there."""


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
        self._decoder, self._left_out = token_decoder(tokenizer), left_out
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
        if len(now) <= len(before) or now.endswith(_CUT_OFF):
            return ""
        self._context, self._emitted = self._emitted, len(self._tokens)
        return now[len(before) :]

    def end(self) -> str:
        """The text that has waited for the rest of its last character, which does not come."""
        before = self._decode(self._context, self._emitted)
        return self._decode(self._context, len(self._tokens)).rstrip(_CUT_OFF)[len(before) :]

    def _decode(self, start: int, stop: int) -> str:
        return _text(self._decoder, self._tokens[start:stop], self._left_out)


def decoded(tokenizer: Any, tokens: Sequence[int], left_out: Collection[int] | None = None) -> str:
    """The text of all of an answer's tokens, without a last character that is cut off.

    Args:
        tokenizer: of transformers.
        tokens: ids.
        left_out: ids that leave no text; all special tokens where None.
    """
    return _text(token_decoder(tokenizer), list(tokens), left_out).rstrip(_CUT_OFF)


def _text(decoder: Callable[[list[int], bool], str], tokens: list[int], left_out: Collection[int] | None) -> str:
    if left_out is None:
        return decoder(tokens, True)
    return decoder([token for token in tokens if token not in left_out], False)
