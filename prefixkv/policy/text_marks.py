"""Tells a cache which tokens of a chunk are text and which stand for parts of a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from prefixkv.kernels.sending import sent
from prefixkv.transformers_compat import cache_in, picture_token_ids


@dataclass(frozen=True)
class TextMarks:
    """One chunk's tokens.

    Attributes:
        is_text: (batch, chunk_len), bool; None where no token is of a picture.
        tail: tokens at the end that are text in every row.
    """

    is_text: torch.Tensor | None
    tail: int

    @classmethod
    def of(cls, tokens: torch.Tensor, picture_tokens: list[int], device: torch.device) -> TextMarks:
        """Read them off token ids; of a GPU's this waits for it.

        Args:
            tokens: (batch, chunk_len), int64.
            picture_tokens: ids that stand for a part of a picture.
            device: where the marks are wanted.
        """
        is_picture = torch.isin(tokens, torch.tensor(picture_tokens, device=tokens.device))
        places = is_picture.any(dim=0).nonzero()[:, 0].tolist()
        if not places:
            return cls(None, tokens.shape[1])
        return cls(sent(~is_picture, device), tokens.shape[1] - 1 - places[-1])

    def row(self, index: int, columns: slice | torch.Tensor) -> TextMarks:
        """One row's marks, without its padding.

        Args:
            index: of the row.
            columns: those of the row's own tokens.
        """
        if self.is_text is None:
            return self
        own = self.is_text[index : index + 1, columns]
        places = (~own[0]).nonzero()[:, 0].tolist()
        return TextMarks(own, own.shape[1] - 1 - places[-1]) if places else TextMarks(None, own.shape[1])

    def behind(self, before: torch.Tensor | None, batch: int, seen_tokens: int, chunk_len: int) -> torch.Tensor | None:
        """The marks of all tokens, the chunk's last.

        Args:
            before: (batch, tokens), bool: earlier chunks'; what was generated since is text. None where all is text.
            batch: rows.
            seen_tokens: tokens read before the chunk.
            chunk_len: tokens of the chunk.

        Returns:
            (batch, seen_tokens + chunk_len), bool; None where all is text.
        """
        if self.is_text is None and before is None:
            return None
        like = self.is_text if before is None else before
        assert like is not None
        marks = like.new_ones(batch, seen_tokens + chunk_len)
        if before is not None:
            marks[:, : before.shape[1]] = before
        if self.is_text is not None:
            marks[:, seen_tokens:] = self.is_text.to(marks.device)
        return marks


def mark_chunk(cache: Any, tokens: torch.Tensor, picture_tokens: list[int], device: torch.device) -> None:
    """Mark the chunk that a cache reads next, if it asks for it and nobody has.

    Args:
        cache: of transformers.
        tokens: (batch, chunk_len), int64, on any device.
        picture_tokens: ids that stand for a part of a picture.
        device: of the model.
    """
    if hasattr(cache, "mark") and not cache.is_marked and (tokens.shape[1] > 1 or not cache.seen_tokens):
        cache.mark(TextMarks.of(tokens, picture_tokens, device))


@contextlib.contextmanager
def marked(model: Any) -> Iterator[None]:
    """Mark the chunks of every forward pass of the model on a cache that asks for it.

    Args:
        model: a language or vision-language model of transformers.
    """
    pictures = picture_token_ids(model.config)
    if not pictures:
        yield
        return

    def mark(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (tokens := kwargs.get("input_ids")) is not None:
            mark_chunk(cache_in(kwargs), tokens, pictures, tokens.device)

    handle = model.register_forward_pre_hook(mark, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
