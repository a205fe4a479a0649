"""Parts of the pass that reads a prompt, on buffers; on a CPU, where nothing is captured, float32."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prefixkv.cache import attention, reading_graphs
from prefixkv.cache.captured_blocks import CapturedBlock, captured_blocks
from prefixkv.cache.compressed_attention import attend
from prefixkv.cache.fused_layers import fused_layers
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.reading_graphs import MOST_SHAPES, MOST_TOKENS, TOKEN_STEP, ReadingGraphs, replayed_parts
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.engine.test_captured_rows import MODELS


@contextlib.contextmanager
def on_buffers(model: Any) -> Iterator[ReadingGraphs]:
    """Passes run on buffers inside the `with`."""
    with attention.installed(model), fused_layers(model, attend, anywhere=True), replayed_parts(model, anywhere=True):
        graphs = reading_graphs.current()
        assert graphs is not None
        yield graphs


def entries(cache: PrefixKVCache) -> list[torch.Tensor]:
    """What every layer stores, copied."""
    return [part.clone() for layer in cache.layers for part in (layer.keys, layer.values, layer.positions)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["prefixkv", "h2o", "guided"])
@torch.no_grad()
def test_prompts_of_other_lengths_leave_what_they_leave_alone(name: str, method: str) -> None:
    model, geometry = MODELS[name](), KVGeometry.of(MODELS[name]().config, "float32")
    prompts = [tiny.text(length, seed=length) for length in (90, 150, 31, 129)]
    expected, plain = [], [PrefixKVCache(geometry, "30%", method) for _ in prompts]
    with attention.installed(model), fused_layers(model, attend, anywhere=True):
        for prompt, cache in zip(prompts, plain, strict=True):
            expected.append(model(input_ids=prompt, **cache_argument(cache)).logits)
    caches = [PrefixKVCache(geometry, "30%", method) for _ in prompts]
    stored = []
    with on_buffers(model):
        for prompt, cache, logits in zip(prompts, caches, expected, strict=True):
            torch.testing.assert_close(
                model(input_ids=prompt, **cache_argument(cache)).logits, logits, rtol=1e-4, atol=1e-4
            )
            stored.append(entries(cache))
    for cache, before, other in zip(caches, stored, plain, strict=True):
        # Those that were read later have not written into what it keeps.
        assert all(map(torch.equal, entries(cache), before))
        for layer in range(geometry.layers):
            assert torch.equal(cache.kept_positions(layer), other.kept_positions(layer))


def test_a_part_works_on_the_prompts_tokens_rounded_up() -> None:
    assert [ReadingGraphs.size(tokens) for tokens in (1, TOKEN_STEP, TOKEN_STEP + 1)] == [128, 128, 256]
    assert ReadingGraphs.size(MOST_TOKENS) == MOST_TOKENS
    assert ReadingGraphs.size(MOST_TOKENS + 1) is None


@torch.no_grad()
def test_a_long_prompt_is_read_without_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_graphs, "MOST_TOKENS", 64)
    model = tiny.llama()
    cache = PrefixKVCache(KVGeometry.of(model.config, "float32"), "30%", "h2o")
    with on_buffers(model) as graphs:
        model(input_ids=tiny.text(90), **cache_argument(cache))
        assert not graphs.bytes


@torch.no_grad()
def test_another_threads_pass_has_no_buffers_meanwhile() -> None:
    model, seen = tiny.llama(), []

    def look() -> None:
        with torch.no_grad(), replayed_parts(model, anywhere=True):
            seen.append(reading_graphs.current())

    with on_buffers(model) as graphs:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert reading_graphs.current() is graphs
    assert seen == [None]
    assert reading_graphs.current() is None
    look()
    assert seen[1] is graphs


def test_weights_that_moved_are_computed_with_anew() -> None:
    graphs, ran = ReadingGraphs(torch.device("cpu")), []
    graphs.run("part", (1, 2), lambda: ran.append("first"))
    before = graphs._parts["part"]
    graphs.run("part", (1, 2), lambda: ran.append("again"))
    assert graphs._parts["part"] is before
    assert before.runs == 2
    graphs.run("part", (1, 3), lambda: ran.append("moved"))
    assert graphs._parts["part"].runs == 1
    assert ran == ["first", "again", "moved"]


@torch.no_grad()
def test_the_blocks_of_a_vision_tower_give_what_they_give_alone() -> None:
    model = tiny.llava()
    tower = model.model.vision_tower
    sides = 3, tower.config.image_size, tower.config.image_size
    pictures = [torch.randn(1, *sides, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    expected = [tower(picture, output_hidden_states=True).hidden_states for picture in pictures]
    with captured_blocks(model, anywhere=True), replayed_parts(model, anywhere=True):
        graphs = reading_graphs.current()
        assert graphs is not None
        for picture, states in zip(2 * pictures, 2 * expected, strict=True):
            found = tower(picture, output_hidden_states=True).hidden_states
            assert all(map(torch.equal, found, states))
        assert graphs.bytes
    assert not any("forward" in vars(module) for module in model.modules())


def test_parts_with_many_shapes_or_another_output_are_none_for_a_graph() -> None:
    graphs = ReadingGraphs(torch.device("cpu"))
    inputs = [torch.zeros(1, 16 + count, 8) for count in range(MOST_SHAPES + 1)]
    for number, each in enumerate(inputs):
        assert not graphs.knows(number)
        graphs.note(number, each, each.clone())
        assert graphs.knows(number)
    assert [graphs.output(number) is not None for number in range(len(inputs))] == [True] * MOST_SHAPES + [False]
    other, long = ReadingGraphs(torch.device("cpu")), torch.zeros(1, MOST_TOKENS + 1, 8)
    for key, like, output in (
        ("long", long, long),
        ("merged", inputs[0], inputs[0][:, ::2]),
        ("two", inputs[0], (inputs[0], None)),
    ):
        other.note(key, like, output)
        assert other.output(key) is None


def test_a_block_that_somebody_listens_to_stays_as_it_is() -> None:
    block = torch.nn.Sequential(torch.nn.Linear(4, 4))
    model = tiny.llama()
    model.tower = torch.nn.ModuleList([block, torch.nn.Sequential(torch.nn.Linear(4, 4))])
    handle = block[0].register_forward_hook(lambda *args: None)
    with captured_blocks(model, anywhere=True):
        assert "forward" not in vars(block)
        assert isinstance(model.tower[1].forward, CapturedBlock)
    handle.remove()
