"""Every family's small random model in bfloat16 on a GPU: two turns, and rows of different lengths together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.decoding import decode
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.transformers_compat import cache_argument
from tests.families import checks
from tests.families.all_families import FAMILIES
from tests.families.tiny_models import Tiny
from tests.gpu.device import DEVICE
from tests.padded_batch import padded_batch

pytestmark = pytest.mark.gpu

NEW_TOKENS = 12


@pytest.fixture(params=FAMILIES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    try:
        built = FAMILIES[request.param]()
    except ImportError as error:
        pytest.skip(f"this transformers reads {request.param}'s pictures with torchvision only: {error}")
    model: Any = built.model
    return dataclasses.replace(built, model=model.to(DEVICE, torch.bfloat16))


def test_two_turns(tiny: Tiny) -> None:
    """At 30 %, 40 steps in each of two turns end where they must, and the layers hold their share."""
    checks.small_budget_runs_two_turns(tiny)


def test_bytes_are_the_budget_s(tiny: Tiny) -> None:
    checks.bytes_equal_budget(tiny)


def test_captured_steps_give_the_tokens_of_plain_ones(tiny: Tiny) -> None:
    """In float32, of every family whose step is captured; others have layers that are left alone, or latents."""
    model: Any = tiny.model.float()
    loaded = checks.loaded(dataclasses.replace(tiny, model=model))
    inputs = loaded.on_device(Prompt(tiny.processor, checks.turns(tiny)).inputs)
    answers, reasons = [], list[str]()
    for captured in (None, False):
        # Not by `compress`, in which single-token passes are replayed whoever makes them.
        with attention.installed(model):
            cache = PrefixKVCache(loaded.geometry, "30%", "prefixkv")
            steps = decode(model, inputs, cache, Sampling(40), (), captured, reasons.append)
            answers.append((list(steps), [cache.kept_positions(layer).tolist() for layer in range(len(cache.layers))]))
    print(f"captured: {reasons or 'yes'}")
    assert answers[0] == answers[1]
    geometry = loaded.geometry
    assert bool(reasons) == (geometry.is_latent or geometry.layers < geometry.decoder_layers)
    assert all("left alone" in reason or "not alike" in reason for reason in reasons)


@pytest.mark.parametrize("budget", ["100%", "30%"])
def test_ragged_rows(tiny: Tiny, budget: str) -> None:
    """Rows keep together what they keep alone, but for entries that are equally important in 16 bits."""
    model: Any = tiny.model
    loaded = checks.loaded(tiny)
    prompts = [
        Prompt(tiny.processor, [Turn("ba ce di fo gu " * repeats, pictures)])
        for repeats, pictures in checks.rows_of(tiny)
    ]
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    with prefixkv.compress(model, budget, "h2o") as together:
        inputs = loaded.on_device(padded_batch(prompts, pad_token=0))
        answers = model.generate(**inputs, **cache_argument(together), **options)[:, -NEW_TOKENS:]
    assert answers.shape == (len(prompts), NEW_TOKENS)
    for index, prompt in enumerate(prompts):
        with prefixkv.compress(model, budget, "h2o") as alone:
            model.generate(**loaded.on_device(prompt.inputs), **cache_argument(alone), **options)
        for layer in range(loaded.geometry.layers):
            rows = together.kept_positions(layer)[index]
            for ours, theirs in zip(rows, alone.kept_positions(layer)[0], strict=True):
                kept = {int(place) for place in ours if place >= 0}
                expected = set(theirs.tolist())
                assert len(kept) == len(expected)
                assert len(kept & expected) >= 0.75 * len(expected)
