"""The choices written down straightforwardly, from whole attention matrices: what the streamed engine must equal."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def whole_matrices(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Every layer's attention weights, (query_heads, seen_len, seen_len), by stock eager attention."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    nested = config is not model.config
    model.set_attn_implementation({"text_config": "eager"} if nested else "eager")
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation({"text_config": before} if nested else before)
    return [layer[0] for layer in attentions]


def prefixkv_positions(
    matrices: list[torch.Tensor], keep_fraction: float, sinks: int = 1, recent: int = 1
) -> list[list[int]]:
    """The kept positions of each layer: one threshold for all layers, found by trying every value that can matter."""
    length = matrices[0].shape[-1]
    importance = [matrix.double().mean(dim=0).sum(dim=0) for matrix in matrices]
    curves = [(row / row.sum()).sort(descending=True).values.cumsum(0) for row in importance]
    total = int(keep_fraction * length * len(matrices) + 1e-9)
    floor = sinks + recent

    def lengths(threshold: float) -> list[int]:
        return [max(floor, int((curve < threshold).sum()) + 1) for curve in curves]

    thresholds = sorted({0.0, *torch.cat(curves).tolist()})
    kept = max((lengths(t) for t in thresholds if sum(lengths(t)) <= total), key=sum)
    assert sum(kept) == total, "two layers reach a threshold at the same entry: choose another seed"
    positions = []
    for row, count in zip(importance, kept, strict=True):
        protected = {*range(sinks), *range(length - recent, length)}
        ranked = [entry for entry in row.argsort(descending=True).tolist() if entry not in protected]
        positions.append(sorted([*protected, *ranked[: count - floor]]))
    return positions


def h2o_positions(matrices: list[torch.Tensor], keep_fraction: float, kv_heads: int) -> list[list[list[int]]]:
    """For each layer and kv head: half of the entries the newest ones, half those with the largest attention sums."""
    length, layers = matrices[0].shape[-1], len(matrices)
    share, extra = divmod(int(keep_fraction * length * layers + 1e-9), layers)
    positions = []
    for layer, matrix in enumerate(matrices):
        count = share + (layer < extra)
        sums = matrix.double().sum(dim=1).reshape(kv_heads, -1, length).mean(dim=1)
        newest = set(range(length - count // 2, length))
        heads = []
        for row in sums:
            ranked = [entry for entry in row.argsort(descending=True).tolist() if entry not in newest]
            heads.append(sorted([*newest, *ranked[: count - len(newest)]]))
        positions.append(heads)
    return positions
