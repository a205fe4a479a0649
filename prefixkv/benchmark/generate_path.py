"""Measures a step of stock `generate`, inside `compress` or with transformers' own caches, or of `chat`.

A step is the difference between an answer of many tokens and one of few, divided by the tokens between: what reading
the prompt, capturing and compiling cost is not in it.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from prefixkv.benchmark import hardware
from prefixkv.benchmark.cell import Cell
from prefixkv.benchmark.load import STATIC, STOCK, Load
from prefixkv.cache import attention
from prefixkv.cache.installations import shared
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.decoding import decode
from prefixkv.engine.generate_steps import generate_steps
from prefixkv.generation.sampling import Sampling
from prefixkv.transformers_compat import cache_argument

FEW_TOKENS, MANY_TOKENS = 32, 160
RUNS = 5


def measure_generate(load: Load, budget: str, cell: Cell) -> Cell:
    """Measure one way of generating.

    Args:
        load: what to run; its rows are padded on the left by 0 up to `padding_tokens`. With path `chat` its one row
            is decoded as an answer of a conversation is.
        budget: as `Budget.parse` reads it, or `STOCK`, or `STATIC`.
        cell: what is known beforehand.
    """
    inputs, prompt, before = _padded(load), load.inputs(), hardware.allocated_bytes(load.device)
    caches: list[PrefixKVCache] = []
    is_chat = load.path == "chat" and budget not in (STOCK, STATIC)

    def run(tokens: int) -> float:
        caches.clear()
        options: dict[str, Any] = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        if budget == STATIC:
            options["cache_implementation"] = "static"
        elif budget != STOCK:
            rule = load.method, load.keep_fractions, load.look_ahead, load.codec
            caches.append(PrefixKVCache(load.geometry, budget, *rule))
            options |= cache_argument(caches[0])
        if is_chat:
            answer = decode(load.model, prompt, caches[0], Sampling(tokens), stop_tokens=())
            return hardware.timed(load.device, lambda: list(answer))
        generate: Any = load.model.generate
        return hardware.timed(load.device, lambda: generate(**inputs, **options, pad_token_id=0))

    with _as_compress_does(load, budget):
        first = run(1)
        first_steps = run(2) - run(1)
        prefills = [run(1) for _ in range(load.repeats)]
        hardware.reset_peak(load.device)
        seconds = list(_steps(run))
    kept = (
        sum(row.stored_bytes for row in caches[0].rows)
        if caches
        else load.batch * load.geometry.token_bytes * (load.context_tokens + MANY_TOKENS - 1)
    )
    step_ms = statistics.median(seconds) * 1000
    return replace(
        cell,
        path="chat" if is_chat else "generate",
        prefill_ms=hardware.median_ms(prefills or [first]),
        step_ms=step_ms,
        first_step_ms=first_steps * 1000,
        tokens_per_second=load.batch / step_ms * 1000,
        kv_bytes=kept,
        peak_bytes=hardware.peak_above(load.device, before),
        roofline_ms=load.roofline_ms(kept),
    )


def _steps(run: Callable[[int], float]) -> Iterator[float]:
    # What is compiled or captured for a length is not timed.
    run(MANY_TOKENS)
    for _ in range(RUNS):
        few = run(FEW_TOKENS)
        # The longer answer comes last: what is stored is looked at behind it.
        yield (run(MANY_TOKENS) - few) / (MANY_TOKENS - FEW_TOKENS)


@contextlib.contextmanager
def _as_compress_does(load: Load, budget: str) -> Iterator[None]:
    if budget in (STOCK, STATIC):
        yield
        return
    with attention.installed(load.model):
        if load.path == "chat":
            yield
            return
        with shared(load.model, generate_steps):
            yield


def _padded(load: Load) -> dict[str, torch.Tensor]:
    inputs = load.inputs()
    mask = torch.ones_like(inputs["input_ids"])
    for row, padding in enumerate(load.paddings):
        mask[row, :padding] = 0
    return {**inputs, "attention_mask": mask}
