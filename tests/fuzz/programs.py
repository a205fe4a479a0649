"""Random programs of chunks, single tokens and restored snapshots on the compressed cache, against a plain reference.

The reference stores every key and value that the model has made, and attends by a plain softmax to those at the
positions that the cache says it keeps. So it proves that each entry is where it is said to be and that nothing else is
attended to; which entries are chosen, other tests say.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
from transformers import AttentionInterface, Cache

import prefixkv
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.methods.table import METHODS
from prefixkv.transformers_compat import cache_argument
from tests import tiny

TOLERANCE = 2e-3
BUDGETS = ("100%", "70%", "50%", "33%", "20%", "10%", "5%", "90tok", "140tok", "60KB", "120KB")
NAMES = [name for name, method in METHODS.items() if method.positions != "compressed"]
"""The reference attends at true positions."""


def plain_attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **others: Any
) -> tuple[torch.Tensor, None]:
    """Softmax attention in which the last keys are the queries' own; (batch, query_len, query_heads, head_dim)."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    own = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(key.shape[2] - query.shape[2])
    weights = scores.masked_fill(~own, float("-inf")).softmax(dim=-1)
    return (weights @ value).transpose(1, 2), None


class PlainCache(Cache):
    """Every key and value, by position; attended to is what stands in `positions`, and what is new."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[])
        self.keys: list[Any] = [None] * layers
        self.values: list[Any] = [None] * layers
        self.positions: list[Any] = [None] * layers

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *more: Any, **others: Any) -> Any:
        before = self.keys[layer], self.values[layer]
        if before[0] is None:
            self.keys[layer], self.values[layer] = keys, values
            return keys, values
        places = self.positions[layer][..., None].expand(-1, keys.shape[1], -1, keys.shape[3])
        self.keys[layer] = torch.cat([before[0], keys], dim=2)
        self.values[layer] = torch.cat([before[1], values], dim=2)
        return tuple(
            torch.cat([old.gather(2, places), new], 2) for old, new in zip(before, (keys, values), strict=True)
        )

    def get_seq_length(self, layer: int = 0) -> int:
        return 0 if self.keys[layer] is None else self.keys[layer].shape[2]

    def get_mask_sizes(self, *sizes: Any) -> tuple[int, int]:
        return self.get_seq_length() + 1, 0

    def copied(self) -> PlainCache:
        other = PlainCache(len(self.keys))
        other.keys, other.values, other.positions = list(self.keys), list(self.values), list(self.positions)
        return other


def random_programs(random: Random) -> Iterator[Callable[[], Any]]:
    """Programs without end, on two small models."""
    AttentionInterface.register("fuzz_plain", plain_attention)
    models = []
    for heads in (4, 2):
        model = tiny.llama(layers=3, query_heads=4, kv_heads=heads, seed=heads)
        other = copy.deepcopy(model)
        other.config._attn_implementation = "fuzz_plain"
        models.append((model, other))
    while True:
        yield lambda: _program(*random.choice(models), random)


@torch.inference_mode()
def _program(model: Any, other: Any, random: Random) -> None:
    method, budget = random.choice(NAMES), random.choice(BUDGETS)
    plain = PlainCache(model.config.num_hidden_layers)
    with prefixkv.compress(model, budget, method) as cache:
        kept: list[tuple[CacheSnapshot, PlainCache]] = []
        for step in range(random.randint(2, 7)):
            kind = random.random()
            if step == 0 or kind < 0.3:
                _read(model, other, cache, plain, torch.randint(0, 190, (1, random.choice((2, 9, 40, 90, 130)))))
            elif kind < 0.8:
                for _ in range(random.randint(1, 12)):
                    _read(model, other, cache, plain, torch.randint(0, 190, (1, 1)))
            elif kind < 0.9 or not kept:
                kept.append((CacheSnapshot.take(cache.row), plain.copied()))
            else:
                snapshot, plain = kept.pop()
                snapshot.restore(cache.row, torch.device("cpu"))
                plain = plain.copied()


def _read(model: Any, other: Any, cache: PrefixKVCache, plain: PlainCache, tokens: torch.Tensor) -> None:
    seen, new = cache.seen_tokens, tokens.shape[1]
    positions = torch.arange(seen, seen + new)[None]
    is_exact = all(layer.bits is None for layer in cache.row.layers)
    logits = model(input_ids=tokens, **cache_argument(cache)).logits[:, -1]
    if new == 1:
        for index in range(len(plain.keys)):
            held = cache.kept_positions(index)
            # What the new token has taken the place of is not attended to any more.
            heads = held.shape[1]
            plain.positions[index] = held[held != seen].view(1, heads, -1)
    expected = other(input_ids=tokens, position_ids=positions, **cache_argument(plain)).logits[:, -1]
    for index, layer in enumerate(cache.row.layers):
        held = cache.kept_positions(index)
        assert held.shape[-1] == layer.kept_tokens == held[0, 0].unique().numel(), "an entry is kept twice"
        assert int(held.min()) >= 0, "a position is below 0"
        assert int(held.max()) < seen + new, "a position is beyond what was read"
        plain.positions[index] = held.clone()
    stored = cache.row.stored_bytes
    if cache.budget.kind == "bytes":
        assert stored <= cache.budget.amount, "a limit in bytes is exceeded"
    assert cache.seen_tokens == plain.get_seq_length() == seen + new, "tokens are miscounted"
    if is_exact and all(layer.bits is None for layer in cache.row.layers):
        off = float((logits - expected).abs().max() / expected.abs().max())
        assert off < TOLERANCE, f"logits differ by {off:.1e}"
