"""`expected`: Expected Attention (arXiv 2510.00636), the attention that queries yet to come will pay in the mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods.layers_read import uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence

SINKS = 4
"""First entries that stay, whose queries do not count: they are unlike all others (the paper's release)."""
FUTURE = range(512)
"""Places behind the prompt over which RoPE is averaged (the release's `n_future_positions`)."""
LEAST = 0.01
"""Added to the attention, so that values count where it is next to nothing (the release's benchmarks)."""
BLOCK = 1024
"""Entries that are multiplied by the covariance in one go."""


def expected(evidence: Evidence) -> torch.Tensor:
    """What a query drawn from a normal distribution pays an entry in the mean, times the length of its value.

    Queries to come are taken to be normal, with the mean `m` and the covariance `S` of the prompt's own queries before
    RoPE, both turned by the mean rotation of the next places. The expected unnormalised attention of a key is then
    `exp(m k / sqrt(d) + k S k / 2 d)`; it is normalised over the entries, averaged over the heads of a group, raised by
    a constant, and multiplied by the norm of the value (steps 1 to 5 of `ExpectedAttentionPress` in NVIDIA/kvpress, the
    paper's release).

    Deviations: values are measured before the output projection, as in the release; queries are brought to one place by
    moving each from where it is, not taken before RoPE; heads of a layer have equal shares, where the release's
    benchmarks let them compete. Where the model's rotation is not known, queries count where they are.
    """
    keys = evidence.keys
    queries = evidence.queries.float() if evidence.gathered is None else evidence.gathered
    is_whole = queries.shape[2] == keys.shape[2]
    queries = queries[:, :, min(SINKS, queries.shape[2] - 1) if is_whole else 0 :]
    mean = queries.mean(dim=2, keepdim=True)
    apart = queries - mean
    covariance = apart.mT @ apart / queries.shape[2]
    if evidence.rotation is not None:
        turn = evidence.rotation.mean_step(FUTURE, keys.shape[-1], keys.device)
        mean, covariance = mean @ turn, turn.mT @ covariance @ turn
    batch, heads, entries, head_dim = keys.shape
    mean = mean.view(batch, heads, -1, 1, head_dim) * evidence.scale
    covariance = covariance.view(batch, heads, -1, head_dim, head_dim) * evidence.scale**2 / 2
    logits = mean.new_empty(batch, heads, mean.shape[2], entries)
    for start in range(0, entries, BLOCK):
        block = keys[:, :, None, start : start + BLOCK].float()
        logits[..., start : start + BLOCK] = ((block @ covariance + mean) * block).sum(dim=-1)
    # The sinks would take what the others share; they stay in any case.
    sinks = min(SINKS, entries - 1)
    others = (logits[..., sinks:].softmax(dim=-1).mean(dim=2) + LEAST) * evidence.value_norms[..., sinks:]
    scores = others.amax(dim=-1, keepdim=True).repeat(1, 1, entries)
    scores[..., sinks:] = others
    return scores


EXPECTED = Method(
    "expected",
    "what queries to come will attend to in the mean, per kv head, equal layers (Expected Attention)",
    expected,
    uniform,
    moves=True,
    per_head=True,
    sink_tokens=SINKS,
    recent_tokens=1,
    window="least",
)
