"""A layer's importance under a method: what its scorer says, shared over heads or not, text first or not."""

from __future__ import annotations

import torch

from prefixkv.cache.layer import CompressedLayer
from prefixkv.methods.evidence import Evidence
from prefixkv.methods.method import Method
from prefixkv.policy import method_calls

Scores = tuple[torch.Tensor, torch.Tensor | None]
"""As `score` gives them."""
KnownScores = dict[str, Scores]
"""What methods have said of one layer's entries, by their names, for all caches that take in the same prompt with the
same look-ahead queries: it depends neither on the budget nor on the codec."""
TEXT_FIRST = 2.0
"""Added to the importance of text, which is at most 1, so that it comes before any picture's."""


def score(method: Method, layer: CompressedLayer, evidence: Evidence, known: KnownScores | None = None) -> Scores:
    """Score the entries of a layer that has just attended, or take what was said of them for another cache.

    Args:
        method: the recipe.
        layer: holds a chunk that is not compacted yet.
        evidence: of that chunk.
        known: of this layer and prompt: scores are looked up and noted there; None where nobody shares them.

    Returns:
        (1, heads, entries), float32, `heads` 1 where they share a choice; and the importance of picture entries
        together, as the scorer said it, one number that stays on the device; None where pictures do not count.
    """
    if known is None:
        return _score(method, layer, evidence)
    if method.name not in known:
        known[method.name] = _score(method, layer, evidence)
    importance, pictures = known[method.name]
    # A layer that keeps all may take it for its own.
    return importance.clone(), pictures


def _score(method: Method, layer: CompressedLayer, evidence: Evidence) -> Scores:
    scores = method_calls.score(method, evidence)
    assert layer.arriving is not None
    stored_heads = layer.arriving[0].shape[1]
    if not method.per_head:
        scores = scores.mean(dim=1, keepdim=True)
    elif scores.shape[1] != stored_heads:
        # Several heads' keys are made of one stored entry.
        scores = scores.reshape(scores.shape[0], stored_heads, -1, scores.shape[-1]).mean(dim=2)
    if layer.importance is not None and method.adds_up:
        scores[..., : layer.kept_tokens] += layer.importance[..., : layer.kept_tokens]
    if not method.keeps_text:
        return scores, None
    if evidence.is_text is None:
        return scores + TEXT_FIRST, None
    pictures = (scores * ~evidence.is_text).sum() / scores.shape[0] / scores.shape[1]
    return scores + TEXT_FIRST * evidence.is_text, pictures


def entry_marks(layer: CompressedLayer, is_text: torch.Tensor | None) -> torch.Tensor | None:
    """Which of a layer's entries are text: the stored ones, then the chunk's.

    Args:
        layer: holds a chunk that is not compacted yet.
        is_text: (1, tokens), bool, of all tokens read, on any device; None where all are text.

    Returns:
        (1, heads, entries), bool, on the layer's device; None where all are text.
    """
    if is_text is None:
        return None
    assert layer.arriving is not None
    is_text = is_text.to(layer.arriving[0].device)
    if layer.positions is None:
        return is_text[:, None]
    every = is_text[:, None].expand(-1, layer.positions.shape[1], -1)
    stored = every.gather(-1, layer.positions[..., : layer.kept_tokens])
    return torch.cat([stored, every[..., layer.seen_tokens :]], dim=-1)
