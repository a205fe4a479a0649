"""The project's own decode step against transformers' forward pass, on the CPU in plain torch, float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.captured.entries import next_entries, obstacle, occupy, write
from prefixkv.generation.captured.step import decoder_step
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable
from prefixkv.models.decoder_weights import DecoderWeights, UnknownDecoderError
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument
from tests import tiny

SIZES = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def qwen2() -> Qwen2ForCausalLM:
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return model


def mistral() -> MistralForCausalLM:
    torch.manual_seed(4)
    return MistralForCausalLM(MistralConfig(**SIZES, head_dim=32, sliding_window=None)).eval()


MODELS = {"llama": tiny.llama, "llava": tiny.llava, "qwen2": qwen2, "mistral": mistral}


@contextlib.contextmanager
def packing(model: Any, budget: str) -> Iterator[PrefixKVCache]:
    """An empty cache that packs in 4 bits where 8 hold too little."""
    geometry = KVGeometry.of(model.config, "float32")
    with attention.installed(model):
        yield PrefixKVCache(geometry, budget, "guided", look_ahead=random_look_ahead(model, geometry))


@torch.no_grad()
def run(model: Any, opened: Any, own: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of 60 steps behind a prompt, the tokens being given, and the kept positions of every layer."""
    with opened as cache:
        model(input_ids=tiny.text(40), **cache_argument(cache))
        weights, table = DecoderWeights.of(model), EntryTable(len(cache.layers), 1, torch.device("cpu"))
        found = []
        for step in range(60):
            tokens = tiny.text(1, seed=step)
            if own:
                assert obstacle(cache) is None
                bits = cache.layers[0].bits or WHOLE_BITS
                write(table, entries := next_entries(cache))
                found.append(decoder_step(weights, table, tokens[:, 0], torch.zeros(1, dtype=torch.int64), (bits,)))
                occupy(cache, entries)
            else:
                found.append(model(input_ids=tokens, **cache_argument(cache)).logits[:, -1])
        return torch.stack(found), [cache.kept_positions(layer) for layer in range(len(cache.layers))]


@pytest.mark.exhaustive(keep=6)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("budget", "method"), [("100%", "full"), ("30%", "prefixkv"), ("20tok", "h2o"), ("9tok", "local")]
)
def test_own_step_gives_the_logits_and_slots_of_transformers(name: str, budget: str, method: str) -> None:
    model = MODELS[name]()
    plain, plain_positions = run(model, prefixkv.compress(model, budget, method), own=False)
    own, own_positions = run(model, prefixkv.compress(model, budget, method), own=True)
    assert float(plain.std()) > 0.1
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, own_positions, plain_positions))


@pytest.mark.parametrize(("budget", "bits"), [("40%", 8), ("15%", 4)])
def test_own_step_on_packed_entries(budget: str, bits: int) -> None:
    model = mistral()
    plain, plain_positions = run(model, packing(model, budget), own=False)
    own, own_positions = run(model, packing(model, budget), own=True)
    torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, own_positions, plain_positions))
    with packing(model, budget) as cache, torch.no_grad():
        model(input_ids=tiny.text(40), **cache_argument(cache))
        assert cache.layers[0].bits == bits
        assert obstacle(cache) is None


def test_a_hook_a_changed_layer_and_another_kind_of_decoder_are_told_apart() -> None:
    model = tiny.llama()
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(UnknownDecoderError, match="LlamaMLP has a hook"):
        DecoderWeights.of(model)
    handle.remove()
    DecoderWeights.of(model)
    model.model.layers[1].self_attn.q_proj = torch.nn.Sequential(model.model.layers[1].self_attn.q_proj)
    with pytest.raises(UnknownDecoderError, match="Sequential"):
        DecoderWeights.of(model)
    with pytest.raises(UnknownDecoderError, match="Qwen3DecoderLayer"):
        DecoderWeights.of(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)))
    with pytest.raises(UnknownDecoderError, match="several dtypes"):
        mixed = tiny.llama()
        mixed.model.norm.half()
        DecoderWeights.of(mixed)
