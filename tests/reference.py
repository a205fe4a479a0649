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


def snapkv_positions(matrix: torch.Tensor, count: int, kv_heads: int) -> list[list[int]]:
    """For each kv head: the newest entries, at most 64 and half of all, and the best by the last 64 queries, pooled."""
    length = matrix.shape[-1]
    votes = matrix[:, -64:].double().mean(dim=1).reshape(kv_heads, -1, length).mean(dim=1)
    newest = set(range(length - max(1, min(64, count // 2)), length))
    heads = []
    for row in votes.tolist():
        pooled = [sum(near) / len(near) for near in (row[max(0, j - 2) : j + 3] for j in range(length))]
        ranked = [j for j in sorted(range(length), key=lambda j: -pooled[j]) if j not in newest]
        heads.append(sorted([*newest, *ranked[: count - len(newest)]]))
    return heads


def tgv_positions(
    matrices: list[torch.Tensor], is_text: list[bool], keep_fraction: float, kv_heads: int
) -> list[list[set[int]]]:
    """For each layer and kv head: all text, and of the picture what text looks at that other text looks at."""
    length, layers = len(is_text), len(matrices)
    text = [j for j in range(length) if is_text[j]]
    scores, masses = [], []
    for matrix in matrices:
        heads = matrix.double().reshape(kv_heads, -1, length, length).mean(dim=1)
        heard = heads[:, text].sum(dim=1)[:, text]
        score = (heads[:, text] * (heard / heard.sum(dim=1, keepdim=True))[..., None]).sum(dim=1)
        scores.append(score)
        masses.append(float(sum(score[:, j].mean() for j in range(length) if not is_text[j])))
    rest = int(keep_fraction * length * layers + 1e-9) - layers * len(text)
    exact = [rest * mass / sum(masses) for mass in masses]
    assert max(exact) <= length - len(text), "a layer has fewer picture entries than its share: take a smaller budget"
    counts = [int(share) for share in exact]
    for layer in sorted(range(layers), key=lambda layer: counts[layer] - exact[layer])[: rest - sum(counts)]:
        counts[layer] += 1
    chosen = []
    for score, count in zip(scores, counts, strict=True):
        pictures = [[j for j in row.argsort(descending=True).tolist() if not is_text[j]] for row in score]
        chosen.append([{*text, *ranked[:count]} for ranked in pictures])
    return chosen


class ReleasedLayer:
    """One layer of PrefixKV's released cache, step by step on a list of original positions."""

    def __init__(self, matrix: torch.Tensor, keep_fraction: float) -> None:
        length = matrix.shape[-1]
        sums = matrix.double().mean(dim=0).sum(dim=0).tolist()
        forget = round((1 - keep_fraction) * length)
        middle = sorted(range(1, length - 1), key=lambda j: -sums[j])[: length - forget - 2]
        self.keep_fraction, self.seen = keep_fraction, length
        self.entries = sorted([0, *middle, length - 1])
        before_the_end = len(self.entries) - 25
        self.deleted_at = before_the_end if before_the_end >= 1 else len(self.entries) // 2

    def step(self) -> None:
        """Read one token; afterwards one entry is deleted if there are too many."""
        self.entries.append(self.seen)
        self.seen += 1
        if int(len(self.entries) - self.seen * self.keep_fraction) > 0:
            del self.entries[self.deleted_at]


def layer_inputs(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], layer: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a layer attends with: queries before RoPE, keys after it, and values, each (heads, seen_len, head_dim)."""
    attention = model.get_decoder().layers[layer].self_attn
    seen: list[torch.Tensor] = []
    hook = attention.q_proj.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    with torch.no_grad():
        stored = model(**inputs, use_cache=True).past_key_values.layers[layer]
    hook.remove()
    queries = seen[0].view(len(seen[0]), -1, attention.head_dim).transpose(0, 1)
    return queries, stored.keys[0], stored.values[0]


def mean_rotation(model: PreTrainedModel, positions: torch.Tensor) -> torch.Tensor:
    """The mean of a Llama's rotations to some positions, (head_dim, head_dim): queries are rows that it multiplies."""
    decoder = model.get_decoder()
    axes = torch.eye(decoder.layers[0].self_attn.head_dim)
    cosine, sine = (part[0].mean(dim=0) for part in decoder.rotary_emb(axes, positions[None]))
    first, second = axes.chunk(2, dim=-1)
    return axes * cosine + torch.cat([-second, first], dim=-1) * sine
