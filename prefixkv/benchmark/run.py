"""Measures one cell: a load on one engine, in a fresh state, with warm-up, medians and synchronised clocks."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from prefixkv.benchmark import hardware
from prefixkv.benchmark.batch_path import measure_batch
from prefixkv.benchmark.cell import Cell
from prefixkv.benchmark.generate_path import measure_generate
from prefixkv.benchmark.load import STATIC, STOCK, Load
from prefixkv.cache import attention
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.decoder.captured import CapturedStep
from prefixkv.engine.captured_rows import formats_of
from prefixkv.engine.decoding import decode_rows
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import get_method
from prefixkv.models.completed_passes import completed_passes
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import get_codec
from prefixkv.transformers_compat import cache_argument


def measure(load: Load, budget: str) -> Cell:
    """Measure this engine at one budget.

    Args:
        load: what to run.
        budget: as `Budget.parse` reads it, or `transformers` for stock generate.

    Returns:
        The numbers; where memory is full, a cell that says so.
    """
    stock = budget in (STOCK, STATIC)
    cell = Cell(
        budget if stock else "prefixkv",
        "100%" if stock else Budget.parse(budget).text,
        None if stock else load.method,
        load.context_tokens,
        load.batch,
        load.new_tokens,
        codec=None if stock else load.codec,
    )
    if not stock and uses_look_ahead(load, budget):
        cell = replace(cell, look_ahead_queries=0 if load.look_ahead is None else len(load.look_ahead.offsets))
    gc.collect()
    hardware.reset_peak(load.device)
    try:
        if load.path == "batch" and not stock:
            return measure_batch(load, budget, cell)
        if load.path != "decode":
            return measure_generate(load, budget, cell)
        with completed_passes(load.model):
            return _measure_stock(load, cell) if stock else _measure_own(load, cell)
    except torch.OutOfMemoryError:
        return replace(cell, failure="out of memory")
    finally:
        gc.collect()
        hardware.reset_peak(load.device)


def uses_look_ahead(load: Load, budget: str) -> bool:
    """Whether look-ahead queries make a difference."""
    method = get_method(load.method)
    capacity = Capacity(load.geometry, Budget.parse(budget), method, codec=get_codec(load.codec))
    return method.is_guided and not capacity.keeps_all


@torch.no_grad()
def _measure_own(load: Load, cell: Cell) -> Cell:
    model, prompt, before = load.model, load.prompt(), hardware.allocated_bytes(load.device)

    with attention.installed(model):
        read = partial(_read_rows, load, cell.budget, prompt)
        prefills = [hardware.timed(load.device, read) for _ in range(load.repeats + 1)] if load.repeats else []
        hardware.reset_peak(load.device)
        started = time.perf_counter()
        cache, rest = _read_rows(load, cell.budget, prompt[:, :-1]), prompt[:, -1:]
        hardware.synchronize(load.device)
        once = time.perf_counter() - started
        prefill_peak = hardware.peak_above(load.device, before)
        refusals: list[str] = []
        steps = decode_rows(model, {"input_ids": rest}, cache, Sampling(load.new_tokens), notify=refusals.append)
        seconds = list(_durations(steps))
        kv_bytes, size = sum(row.stored_bytes for row in cache.rows), 1 << (load.batch - 1).bit_length()
        plain = bool(refusals) or not CapturedStep.is_ready(model, size, formats_of(cache.rows))
    first, later = seconds[1], seconds[2:]
    return replace(
        cell,
        path="plain" if plain else "captured",
        prefill_ms=hardware.median_ms(prefills[1:] or [once]),
        step_ms=hardware.median_ms(later),
        first_step_ms=first * 1000,
        tokens_per_second=load.batch * len(later) / sum(later),
        kv_bytes=kv_bytes,
        prefill_peak_bytes=prefill_peak,
        peak_bytes=hardware.peak_above(load.device, before),
        roofline_ms=load.roofline_ms(kv_bytes),
    )


def _read_rows(load: Load, budget: str, prompt: torch.Tensor) -> PrefixKVCache:
    """Read a prompt of (batch, tokens) a few rows at a time; a budget in bytes is for all of them."""
    share = Budget.parse(budget)
    if share.kind == "bytes":
        share = replace(share, amount=share.amount / load.batch)
    rows: list[CacheRow] = []
    for chunk in prompt.split(load.rows_at_once or load.batch):
        kind = load.geometry, share, load.method, load.keep_fractions, load.look_ahead, load.codec
        cache = PrefixKVCache.of_rows([CacheRow(*kind) for _ in chunk])
        load.model(input_ids=chunk, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        rows += cache.rows
    return PrefixKVCache.of_rows(rows)


def _durations(steps: Iterator[Any]) -> Iterator[float]:
    """Time until each step's tokens are on the host."""
    started = time.perf_counter()
    for _ in steps:
        ended = time.perf_counter()
        yield ended - started
        started = ended


@torch.no_grad()
def _measure_stock(load: Load, cell: Cell) -> Cell:
    model, prompt, before = load.model, load.prompt(), hardware.allocated_bytes(load.device)

    def read() -> DynamicCache:
        cache = DynamicCache(config=model.config)
        model(input_ids=prompt, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        return cache

    prefills = [hardware.timed(load.device, read) for _ in range(load.repeats + 1)]
    hardware.reset_peak(load.device)
    read()
    prefill_peak = hardware.peak_above(load.device, before)
    clock = _Clock(load)
    generate: Any = model.generate
    generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=load.new_tokens,
        min_new_tokens=load.new_tokens,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    seconds = clock.durations()
    kv_bytes = load.batch * (load.context_tokens + load.new_tokens - 1) * load.geometry.token_bytes
    return replace(
        cell,
        path="plain",
        prefill_ms=hardware.median_ms(prefills[1:]),
        step_ms=hardware.median_ms(seconds[1:]),
        first_step_ms=seconds[0] * 1000,
        tokens_per_second=load.batch * len(seconds[1:]) / sum(seconds[1:]),
        kv_bytes=kv_bytes,
        prefill_peak_bytes=prefill_peak,
        peak_bytes=hardware.peak_above(load.device, before),
        roofline_ms=load.roofline_ms(kv_bytes),
    )


class _Clock(StoppingCriteria):
    """Notes when each token is there; never stops."""

    def __init__(self, load: Load) -> None:
        self._load, self._times = load, list[float]()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        hardware.synchronize(self._load.device)
        self._times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def durations(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
