"""Weights by bitsandbytes: a step in 4 bits is captured, one in 8 says why not; both say what the plain one says."""

from __future__ import annotations

from typing import Any

import pytest

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.demo.scenes import draw_scene
from prefixkv.engine.decoding import decode
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import load_model
from prefixkv.models.placement import Placement
from tests.gpu.conftest import SEED
from tests.gpu.device import DEVICE

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("bits", [4, 8])
def test_steps_give_the_tokens_of_plain_ones(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = load_model("demo", str(DEVICE), "bfloat16", placement=Placement(bits=bits))
    model: Any = loaded.model
    assert any("bitsandbytes" in type(module).__module__ for module in model.modules())
    inputs = loaded.on_device(
        Prompt(loaded.processor, [Turn("Describe the picture.", (draw_scene(SEED).image,))]).inputs
    )
    answers, reasons = [], list[str]()
    for captured in (None, False):
        with attention.installed(model):
            cache = PrefixKVCache(loaded.geometry, "30%", "h2o")
            answers.append(list(decode(model, inputs, cache, Sampling(40), (), captured, reasons.append)))
    assert ["look for outliers" in reason for reason in reasons] == [True] * (bits == 8)
    assert answers[0] == answers[1]
