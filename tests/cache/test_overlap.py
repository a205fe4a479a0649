"""One model in several hands at once: each answer is what it is alone, and the model is afterwards as it was before."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.engine.decoding import decode
from prefixkv.generation.sampling import Sampling
from tests import tiny

OPTIONS = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def compressed(model: Any, seed: int) -> list[Any]:
    """An answer, and what is kept behind it; budgets, methods and lengths differ."""
    method, budget = (("h2o", "30%"), ("prefixkv", "20%"), ("local", "16tok"))[seed % 3]
    with prefixkv.compress(model, budget, method) as cache:
        out = model.generate(tiny.text(30 + seed, seed), **cache.argument, **OPTIONS)
        return [out.tolist(), [cache.kept_positions(layer).tolist() for layer in range(2)]]


def stock(model: Any, seed: int) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [model.generate(tiny.text(30 + seed, seed), **OPTIONS).tolist()]


def state(model: Any) -> dict[str, Any]:
    """Every attribute and hook of every part, and how attention is chosen."""
    parts = {name: sorted(vars(part)) for name, part in model.named_modules()}
    hooks = {name: (len(part._forward_hooks), len(part._forward_pre_hooks)) for name, part in model.named_modules()}
    return {"parts": parts, "hooks": hooks, "attention": model.config._attn_implementation}


@pytest.mark.filterwarnings("ignore:this forward pass does not use the compressed cache")
def test_threads_on_one_model_get_what_each_gets_alone() -> None:
    model = tiny.llama()
    before = state(model)
    work = [(compressed, seed) if seed % 4 else (stock, seed) for seed in range(24)]
    expected = [call(model, seed) for call, seed in work]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda item: item[0](model, item[1]), work))
    assert found == expected
    assert state(model) == before


def test_blocks_that_overlap_may_end_in_any_order() -> None:
    model = tiny.llama()
    before, expected = state(model), [compressed(model, seed) for seed in (0, 1)]
    first, second = prefixkv.compress(model, "30%", "h2o"), prefixkv.compress(model, "20%", "prefixkv")
    one, other = first.__enter__(), second.__enter__()
    found = model.generate(tiny.text(30, 0), **one.argument, **OPTIONS).tolist()
    first.__exit__(None, None, None)
    assert found == expected[0][0]
    assert model.generate(tiny.text(31, 1), **other.argument, **OPTIONS).tolist() == expected[1][0]
    second.__exit__(None, None, None)
    assert state(model) == before


def test_answers_that_are_read_in_turns_do_not_mix() -> None:
    model, lengths = tiny.llama(), (40, 55)
    alone = []
    for length in lengths:
        with prefixkv.compress(model, "30%", "h2o") as cache:
            alone.append(list(decode(model, {"input_ids": tiny.text(length)}, cache, Sampling(20), ())))
    with prefixkv.compress(model, "30%", "h2o") as one, prefixkv.compress(model, "30%", "h2o") as other:
        answers = [
            decode(model, {"input_ids": tiny.text(length)}, cache, Sampling(20), ())
            for length, cache in zip(lengths, (one, other), strict=True)
        ]
        together = [[next(answer) for answer in answers] for _ in range(20)]
    assert [list(tokens) for tokens in zip(*together, strict=True)] == alone
    assert not torch.is_inference_mode_enabled()
