"""Prompts read on a GPU: what is kept, and what the demo model answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.questions import question_set
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.engine.test_captured_rows import qwen2

pytestmark = pytest.mark.gpu


@torch.no_grad()
def kept(model: Any, budget: str, method: str, guided: bool) -> list[torch.Tensor]:
    """Positions that each layer keeps of two chunks, in order of position."""
    geometry = KVGeometry.of(model.config, "float32")
    look_ahead = random_look_ahead(model, geometry) if guided else None
    with attention.installed(model):
        cache = PrefixKVCache(geometry, budget, method, None, look_ahead)
        for length, seed in ((400, 2), (60, 3)):
            model(input_ids=tiny.text(length, seed).to(model.device), **cache_argument(cache))
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
