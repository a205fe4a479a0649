"""Prompts read on a GPU: what is kept, how exact the fused layers are, and what the demo model answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.fused_layers import FusedLayer
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.questions import question_set
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import LoadedModel
from tests import tiny
from tests.generation.test_decoding_step import qwen2

pytestmark = pytest.mark.gpu


@torch.no_grad()
def kept(model: Any, budget: str, method: str, guided: bool) -> list[torch.Tensor]:
    """Positions that each layer keeps of two chunks, in order of position."""
    geometry = KVGeometry.of(model.config, "float32")
    look_ahead = random_look_ahead(model, geometry) if guided else None
    with attention.installed(model):
        cache = PrefixKVCache(geometry, budget, method, None, look_ahead)
        for length, seed in ((400, 2), (60, 3)):
            model(input_ids=tiny.text(length, seed).to(model.device), past_key_values=cache)
        return [cache.kept_positions(layer).sort(dim=-1).values.cpu() for layer in range(geometry.layers)]


@pytest.mark.parametrize("build", [tiny.llava, qwen2])
@pytest.mark.parametrize("budget", ["40%", "20%", "100tok"])
@pytest.mark.parametrize(
    ("method", "guided"),
    [(name, False) for name in ("prefixkv", "h2o", "snapkv", "pyramidkv", "tgv", "guided")] + [("guided", True)],
)
def test_a_gpu_keeps_what_a_cpu_keeps(build: Any, budget: str, method: str, guided: bool) -> None:
    model = build()
    expected = kept(model, budget, method, guided)
    found = kept(model.cuda(), budget, method, guided)
    assert [len(layer[0, 0]) for layer in found] == [len(layer[0, 0]) for layer in expected]
    same = [
        len(set(ours.tolist()) & set(theirs.tolist())) / len(theirs)
        for layer, other in zip(found, expected, strict=True)
        for ours, theirs in zip(layer.flatten(0, 1), other.flatten(0, 1), strict=True)
    ]
    # Where two entries are as important to the last bits of float32, either may stay.
    assert min(same) >= 0.95
    assert sum(same) / len(same) >= 0.995


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_layers_are_as_exact_as_transformers(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in 16 bits against transformers in float32."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 1024, "intermediate_size": 2752, "num_attention_heads": 8, "num_key_value_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=500, num_hidden_layers=6)).to(dtype).cuda().eval()
    prompt = torch.randint(0, 500, (2, 777), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    calls: list[bool] = []
    covers = FusedLayer._covers
    monkeypatch.setattr(FusedLayer, "_covers", lambda *args: calls.append(covers(*args)) or calls[-1])

    @torch.no_grad()
    def logits() -> torch.Tensor:
        with attention.installed(model):
            cache = PrefixKVCache(KVGeometry.of(model.config, str(dtype).removeprefix("torch.")), "20%", "h2o")
            return model(input_ids=prompt, past_key_values=cache).logits.double()

    fused = logits()
    assert len(calls) == 6
    assert all(calls)
    monkeypatch.setenv("PREFIXKV_CAPTURE", "0")
    plain = logits()
    assert len(calls) == 6
    with torch.no_grad():
        exact = model.float()(input_ids=prompt).logits.double()
    error, allowed = (fused - exact).abs(), (plain - exact).abs()
    assert float(error.mean()) <= 1.1 * float(allowed.mean())
    assert float(error.max()) <= 2 * float(allowed.max())


@pytest.mark.parametrize(("method", "budget", "right"), [("guided", "20%", 19), ("prefixkv", "100%", 19)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_demo_model_answers_on_a_gpu(method: str, budget: str, right: int, dtype: str) -> None:
    """Of 20 questions about pictures that it has not seen."""
    loaded: LoadedModel = prefixkv.load_model("demo", device="cuda", dtype=dtype)
    notices: list[str] = []
    answers = 0
    asked = [(scene, question) for scene, question in question_set(26, seed=4242) if not question.context][:20]
    for scene, question in asked:
        conversation = Conversation(loaded, budget, method, notify=notices.append)
        answers += "".join(conversation.ask(question.question, [scene.image])).strip() == question.answer
    assert answers >= right
    assert notices == []
