"""What a cache leaves on the keys that it returns, for the attention call that is given exactly these keys.

Transformers calls a cache and then, in the same layer, attention, with nothing of ours between the two. The word for
the second call rides on the tensor itself: passes of several threads, models and caches cannot take each other's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from prefixkv.cache.latents import Latents

AfterAttention = Callable[[torch.Tensor, float, torch.Tensor | None], None]
Attend = Callable[..., tuple[torch.Tensor, None]]
_NAME = "prefixkv_hand_off"


class AttendRows(Protocol):
    """Attention of a batch whose rows differ in length, row by row."""

    def __call__(
        self,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            attend: the attention of this layer, called with query, key, value and mask.
            query: (batch, query_heads, query_len, head_dim).
            key: (batch, kv_heads, key_len, head_dim), what the cache returned.
            value: same shape.
            mask: what `make_mask` returned.
            scale: factor on the dot products, where attention is their softmax and nothing else; None else.

        Returns:
            (batch, query_len, query_heads, head_dim).
        """


@dataclass(frozen=True)
class HandOff:
    """Word from a cache to the attention call behind it.

    Attributes:
        after: called once attention is done with the queries (batch, query_heads, query_len, head_dim), the scale, and
            the keys where these are not those that are stored; None where nothing is left to do.
        rows: attends instead, where there are several rows.
        again: word for further attention calls on the same keys, of layers that read this one's; None where there are
            none.
        latents: what the keys and values were made of, where they are not themselves stored; else None.
        sums_all: whether `after` will sum the attention of all these queries, so that their log-sum-exp is of use.
        may_round: whether what is attended to is compressed next, so that the kernel need not be torch's own choice.
    """

    after: AfterAttention | None = None
    rows: AttendRows | None = None
    sums_all: bool = False
    may_round: bool = False
    again: HandOff | None = None
    latents: Latents | None = None


def leave(keys: torch.Tensor, word: HandOff) -> None:
    """Leave word on the keys that a cache is about to return."""
    setattr(keys, _NAME, word)


def take(keys: torch.Tensor) -> HandOff | None:
    """Take the word that was left on these keys; None where they come from no compressed cache."""
    word: HandOff | None = vars(keys).pop(_NAME, None)
    if word is not None and word.again is not None:
        leave(keys, replace(word.again, again=word.again))
    return word
