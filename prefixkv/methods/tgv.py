"""`tgv`: TGV-KV (arXiv 2606.03075), as far as it is known to us."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods import allocation
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence


def spoken(evidence: Evidence) -> torch.Tensor:
    """Attention of the text queries, each weighted by the attention that it receives from them.

    A text token that other text attends to speaks louder.
    """
    return evidence.text_attention()


def text_first(read: LayersRead) -> list[int]:
    """Give every layer the text, and share the rest by how much attention the text pays to pictures there."""
    pictures = read.pictures or [0.0] * len(read.ceilings)
    return allocation.text_first(pictures, read.total, min(read.text_tokens, read.seen), read.floor, read.seen)


TGV = Method(
    "tgv",
    "text first, pictures by the attention of weighted text queries, which also weigh the layers (TGV-KV)",
    spoken,
    text_first,
    shares="final",
    per_head=True,
    recent_tokens=1,
    keeps_text=True,
    window="least",
)
