"""`triattention`: TriAttention (arXiv 2604.04921), attention as a function of the distance from mean queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.methods.layers_read import uniform
from prefixkv.methods.method import Method

if TYPE_CHECKING:
    import torch

    from prefixkv.methods.evidence import Evidence

DOUBLINGS = 16
"""Future distances are 1, 2, 4, ... up to 2 to this (the release's `offset_max_length`)."""
SMALLEST = 1e-6
"""Least deviation that scores are divided by."""


def centred(evidence: Evidence) -> torch.Tensor:
    """What the mean query of a head looks at over many distances, and how long the key is where queries spread.

    Before RoPE the queries of a head lie around one centre. In each plane `f` that RoPE turns, by the angle `w_f` a
    place, the centre `E[q_f]` gives a key `k_f` at the distance `D` `|E[q_f]| |k_f| cos(w_f D + phi_f)`. Summed over
    the planes that is a trigonometric series in `D`: the product of the key and the centre turned so far. Added is
    `(E[|q_f|] - |E[q_f]|) |k_f|`, for planes in which queries spread. Both are averaged over the distances 1, 2, 4,
    ..., 65536 behind the prompt; then a query head's scores are brought to the mean 0 and the deviation 1, and the
    largest of a group counts (the series is the paper's equation 2; the rest as in the release, WeianMao/triattention).

    The centres are those of the profile's look-ahead queries, and of the prompt's own queries where there is no
    profile. Deviations: the prompt is compressed, once, where the release keeps it and compresses what is written, over
    and over; where the model's rotation is not known, queries count where they are and each element as a plane.
    """
    keys = evidence.keys.float()
    queries = evidence.queries.float() if evidence.gathered is None else evidence.gathered
    planes, turn = _planes_and_turn(evidence)
    centre = queries.mean(dim=2, keepdim=True)
    spread = _lengths(queries, planes).mean(dim=2, keepdim=True) - _lengths(centre, planes)
    shape = *keys.shape[:2], -1, keys.shape[-1]
    toward, spread = (centre @ turn).view(shape), spread.view(shape)
    scores = toward @ keys.mT + spread @ _lengths(keys, planes).mT
    scores = scores - scores.mean(dim=-1, keepdim=True)
    return (scores / scores.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(SMALLEST)).amax(dim=2)


def _lengths(vectors: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    """The length of vectors in each plane: (..., head_dim), 0 where a number stands for no plane."""
    return (vectors.square() @ planes).sqrt()


def _planes_and_turn(evidence: Evidence) -> tuple[torch.Tensor, torch.Tensor]:
    """Which elements make a plane, and the mean of the rotations by all distances; both (head_dim, head_dim).

    The squares of a vector times the first are the squares of its lengths in the planes. A rotation by twice the
    distance is the same rotation twice.
    """
    axes = evidence.keys.new_zeros(evidence.keys.shape[-1]).float().diag_embed()
    axes.fill_diagonal_(1)
    if evidence.rotation is None:
        return axes, axes
    step = evidence.rotation.mean_step((1,), len(axes), axes.device)
    beside = (step * (1 - axes)).abs().max(dim=-1)
    own = axes.argmax(dim=-1)
    first = own.minimum(beside.indices.where(beside.values > 0, own))
    turn = total = step.double()
    for _ in range(DOUBLINGS):
        turn = turn @ turn
        total = total + turn
    return axes[first], (total / (DOUBLINGS + 1)).float()


TRIATTENTION = Method(
    "triattention",
    "keys that the centre of the queries will look at over many distances, per kv head, equal layers (TriAttention)",
    centred,
    uniform,
    is_guided=True,
    moves=True,
    per_head=True,
    recent_tokens=1,
    window="least",
)
