"""How exact reading and decoding are in 16 bits: transformers' own passes, in the same precision, are the measure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from prefixkv.cache import attention
from prefixkv.cache.fused_layers import FusedLayer
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.generation.forward import read_tokens
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument

pytestmark = pytest.mark.gpu


def decoder(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 8, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=500, num_hidden_layers=6)).to(dtype).cuda().eval()


def tokens(*shape: int, vocabulary: int = 500) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1))


def new_cache(model: Any, budget: str) -> PrefixKVCache:
    return PrefixKVCache(KVGeometry.of(model.config, str(model.dtype).removeprefix("torch.")), budget, "h2o")


def assert_as_exact(own: torch.Tensor, plain: torch.Tensor, exact: torch.Tensor) -> None:
    """Mean and largest error."""
    error, allowed = ((each.double() - exact.double()).abs() for each in (own, plain))
    assert float(error.mean()) <= 1.1 * float(allowed.mean())
    assert float(error.max()) <= 2 * float(allowed.max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_layers_are_as_exact_as_transformers(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = decoder(dtype), tokens(2, 777)
    calls: list[bool] = []
    covers = FusedLayer._covers
    monkeypatch.setattr(FusedLayer, "_covers", lambda *args: calls.append(covers(*args)) or calls[-1])

    @torch.no_grad()
    def logits() -> torch.Tensor:
        with attention.installed(model):
            return model(input_ids=prompt, **cache_argument(new_cache(model, "20%"))).logits

    fused = logits()
    assert len(calls) == 6
    assert all(calls)
    monkeypatch.setenv("PREFIXKV_CAPTURE", "0")
    plain = logits()
    assert len(calls) == 6
    with torch.no_grad():
        exact = model.float()(input_ids=prompt).logits
    assert_as_exact(fused, plain, exact)


@torch.no_grad()
def step_logits(model: Any, prompt: torch.Tensor, given: torch.Tensor, own: bool) -> torch.Tensor:
    """Logits behind each of the given tokens, at full cache: by the project's own decode step or transformers'."""
    with attention.installed(model):
        cache = new_cache(model, "100%")
        model(input_ids=prompt, **cache_argument(cache))
        rows, found = CapturedRows(model, len(cache.rows)), []
        for place, row in enumerate(cache.rows if own else ()):
            rows.join(place, row)
        for token in given.split(1, dim=1):
            found.append(rows.advance(token[:, 0]) if own else read_tokens(model, cache, token[:, 0]))
        return torch.stack(found).float()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_decode_step_is_as_exact_as_transformers(dtype: torch.dtype, batch: int) -> None:
    model, prompt, given = decoder(dtype), tokens(batch, 300), tokens(batch, 40)
    own, plain = (step_logits(model, prompt, given, own) for own in (True, False))
    with torch.no_grad():
        exact = step_logits(model.float(), prompt, given, own=False)
    assert_as_exact(own, plain, exact)
