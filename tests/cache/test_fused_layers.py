"""Decoder layers in the project's own kernels against transformers' modules, on the CPU in plain torch, float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from prefixkv.cache import attention
from prefixkv.cache.compressed_attention import attend
from prefixkv.cache.fused_layers import FusedLayer, fused_layers
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.models.decoder_weights import DecoderWeights
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.engine.test_captured_rows import MODELS, SIZES


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How each layer's call was answered."""
    found: list[str] = []
    covers = FusedLayer._covers

    def noted(self: FusedLayer, *args: Any) -> bool:
        answer = covers(self, *args)
        found.append("fused" if answer else "plain")
        return answer

    monkeypatch.setattr(FusedLayer, "_covers", noted)
    return found


@torch.no_grad()
def read(model: Any, chunks: list[torch.Tensor], fused: bool, cache: PrefixKVCache, **options: Any) -> torch.Tensor:
    """Logits behind the last of several chunks."""
    with attention.installed(model), fused_layers(model, attend, anywhere=fused):
        for chunk in chunks:
            output = model(input_ids=chunk, **cache_argument(cache), **options)
        return output.logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["prefixkv", "h2o", "snapkv", "guided"])
def test_two_turns_give_the_same_logits_and_entries(name: str, method: str, calls: list[str]) -> None:
    model, chunks = MODELS[name](), [tiny.text(90), tiny.text(25, seed=7)]
    geometry = KVGeometry.of(model.config, "float32")
    plain, fused = (PrefixKVCache(geometry, "30%", method) for _ in range(2))
    expected = read(model, chunks, False, plain)
    assert not calls
    torch.testing.assert_close(read(model, chunks, True, fused), expected, rtol=1e-4, atol=1e-4)
    assert calls == ["fused"] * 2 * geometry.layers
    for layer in range(geometry.layers):
        assert torch.equal(fused.kept_positions(layer), plain.kept_positions(layer))


def test_padded_rows_give_the_same_logits(calls: list[str]) -> None:
    model, tokens = tiny.llama(), tiny.text(40, batch=2)
    mask = torch.ones_like(tokens)
    mask[0, :15] = 0
    geometry = KVGeometry.of(model.config, "float32")
    caches = [PrefixKVCache(geometry, "30%", "h2o") for _ in range(2)]
    plain, fused = (
        read(model, [tokens], fused, cache, attention_mask=mask)[:, -1]
        for fused, cache in zip((False, True), caches, strict=True)
    )
    assert set(calls) == {"fused"}
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)


def test_window_layers_are_seen_through_their_mask(calls: list[str]) -> None:
    torch.manual_seed(4)
    windows = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, **windows)).eval()
    geometry, prompt = KVGeometry.of(model.config, "float32"), tiny.text(90)
    assert geometry.window_layers == (2,)
    with torch.no_grad():
        expected = model(input_ids=prompt).logits
    found = read(model, [prompt], True, PrefixKVCache(geometry, "30%", "h2o"))
    assert calls == ["fused"] * 3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_keeps_everything_single_tokens_and_gradients_are_transformers_own(calls: list[str]) -> None:
    model, prompt = tiny.llama(), tiny.text(30)
    geometry = KVGeometry.of(model.config, "float32")
    with torch.no_grad():
        expected = model(input_ids=prompt).logits
    assert read(model, [prompt], True, PrefixKVCache(geometry, "100%", "h2o")).equal(expected)
    assert set(calls) == {"plain"}
    cache = PrefixKVCache(geometry, "30%", "h2o")
    read(model, [prompt], True, cache)
    calls.clear()
    read(model, [tiny.text(1)], True, cache)
    assert set(calls) == {"plain"}
    calls.clear()
    with attention.installed(model), fused_layers(model, attend, anywhere=True):
        assert model(input_ids=prompt).logits.requires_grad
    assert set(calls) == {"plain"}


def test_layers_come_back_and_are_still_known_to_the_decode_step() -> None:
    model = tiny.llama()
    with pytest.raises(ZeroDivisionError), fused_layers(model, attend, anywhere=True):
        assert all(isinstance(layer.forward, FusedLayer) for layer in model.model.layers)
        DecoderWeights.of(model)
        with fused_layers(model, attend, anywhere=True):
            pass
        assert all(isinstance(layer.forward, FusedLayer) for layer in model.model.layers)
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in model.model.layers)


def test_a_layer_with_a_forward_of_its_own_is_left_alone() -> None:
    model = tiny.llama()
    own = model.model.layers[1].forward = lambda hidden_states, **_: hidden_states
    with fused_layers(model, attend, anywhere=True):
        assert model.model.layers[1].forward is own
        assert "forward" not in vars(model.model.layers[0])
