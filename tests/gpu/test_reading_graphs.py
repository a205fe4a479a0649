"""Prompts whose pass is replayed in parts, on a GPU."""

from __future__ import annotations

import pytest
import torch

import prefixkv
from prefixkv.cache import attention, reading_graphs
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.generation.forward import read_prompt
from prefixkv.generation.sampling import Sampling
from prefixkv.models.geometry import KVGeometry
from tests import tiny
from tests.gpu.device import DEVICE

pytestmark = pytest.mark.gpu


def read(model: torch.nn.Module, inputs: dict[str, torch.Tensor], method: str) -> tuple[torch.Tensor, PrefixKVCache]:
    geometry = KVGeometry.of(model.config, str(model.dtype).removeprefix("torch."))
    cache = PrefixKVCache.of_rows([CacheRow(geometry, "30%", method)])
    with attention.installed(model):
        return read_prompt(model, inputs, cache), cache


def of_llava(model: torch.nn.Module, length: int, seed: int) -> dict[str, torch.Tensor]:
    inputs = {name: part.to(DEVICE) for name, part in tiny.prompt(length, seed=seed).items()}
    return inputs | {"pixel_values": inputs["pixel_values"].to(model.dtype)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["h2o", "prefixkv", "guided"])
def test_a_replayed_prompt_gives_what_it_gave_before_it_was_captured(method: str, dtype: str) -> None:
    model = tiny.llava().to(DEVICE, getattr(torch, dtype))
    prompts = [of_llava(model, length, seed) for length, seed in ((60, 1), (71, 2), (60, 3))]
    prompts = [
        {name: p.to(model.dtype) if p.is_floating_point() else p for name, p in each.items()} for each in prompts
    ]
    first = [read(model, prompt, method) for prompt in prompts]
    graphs = reading_graphs._graphs[model]
    kept = [[part.clone() for layer in cache.layers for part in (layer.keys, layer.positions)] for _, cache in first]
    again = [read(model, prompt, method) for _ in range(2) for prompt in prompts]
    # Two parts for each layer of the decoder, and the blocks of the tower.
    assert graphs.replays > 2 * len(model.model.language_model.layers)
    assert graphs.bytes
    for (logits, cache), entries, (expected, _) in zip(again[-len(prompts) :], kept, first, strict=True):
        assert torch.equal(logits, expected)
        found = [part for layer in cache.layers for part in (layer.keys, layer.positions)]
        assert all(map(torch.equal, found, entries))
    for (_, cache), entries in zip(first, kept, strict=True):
        assert all(map(torch.equal, [p for layer in cache.layers for p in (layer.keys, layer.positions)], entries))


def test_weights_that_moved_are_not_those_that_were_captured() -> None:
    model = tiny.llava().to(DEVICE)
    prompt = of_llava(model, 60, 1)
    for _ in range(4):
        before, _ = read(model, prompt, "h2o")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.5
    after, _ = read(model, prompt, "h2o")
    fresh = tiny.llava().to(DEVICE)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(1.5)
    expected, _ = read(fresh, prompt, "h2o")
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_engines_that_read_at_the_same_time_answer_as_alone() -> None:
    model = tiny.llava().to(DEVICE)
    prompts = [of_llava(model, 50 + 7 * number, number) for number in range(12)]
    sampling = Sampling(max_new_tokens=12)
    with prefixkv.Engine(model, "h2o", most_rows=4) as engine:
        alone = [engine.submit(prompt, "30%", sampling, stop_tokens=()).result() for prompt in prompts]
    engines = [prefixkv.Engine(model, "h2o", most_rows=4) for _ in range(2)]
    streams = [engines[number % 2].submit(p, "30%", sampling, stop_tokens=()) for number, p in enumerate(prompts)]
    assert [stream.result() for stream in streams] == alone
    for engine in engines:
        engine.close()
