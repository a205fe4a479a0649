"""Measures one cell: a load on one engine, in a fresh state, with warm-up, medians and synchronised clocks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from prefixkv.benchmark import hardware
from prefixkv.benchmark.cell import Cell
from prefixkv.benchmark.chunked_prefill import read_rows
from prefixkv.cache import attention
from prefixkv.cache.capacity import Capacity
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.generation.captured.graph import CapturedStep
from prefixkv.generation.decoding import decode_rows
from prefixkv.generation.sampling import Sampling
from prefixkv.kernels.entry_table import WHOLE_BITS
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.methods import DEFAULT_METHOD, get_method
from prefixkv.transformers_compat import cache_argument

STOCK = "transformers"


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        model: on its device, stock sdpa attention.
        geometry: shape of its cache.
        context_tokens: tokens of each row's prompt.
        batch: rows.
        new_tokens: tokens to generate for each row, 3 at least.
        bandwidth: bytes in a second that the device copies.
        repeats: measured prefills, of which one more warms up; 0 times the one that decoding begins from.
        method: how entries are chosen.
        keep_fractions: shares of the layers that are known beforehand; None searches them.
        rows_at_once: rows that are read in one forward pass; all where None.
        look_ahead: queries for a method that uses a profile's; None without.
    """

    model: PreTrainedModel
    geometry: KVGeometry
    context_tokens: int
    batch: int
    new_tokens: int
    bandwidth: float
    repeats: int = 3
    method: str = DEFAULT_METHOD
    keep_fractions: tuple[float, ...] | None = None
    rows_at_once: int | None = None
    look_ahead: LookAhead | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def prompt(self) -> torch.Tensor:
        """(batch, context_tokens), int64: random text, the same every time."""
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = torch.randint(5, vocabulary * 9 // 10, (self.batch, self.context_tokens), generator=generator)
        return ids.to(self.device)

    def roofline_ms(self, kv_bytes: int) -> float:
        """A step that reads weights and entries once and does nothing else."""
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        embedding = self.model.get_input_embeddings().weight
        weights = [*decoder.parameters(), *head.parameters()]
        # The embedding is looked up, unless it is the head as well.
        read = {weight.data_ptr(): weight.nbytes for weight in weights if weight is not embedding}
        read |= {head.weight.data_ptr(): head.weight.nbytes}
        return (sum(read.values()) + kv_bytes) / self.bandwidth * 1000


def measure(load: Load, budget: str) -> Cell:
    """Measure this engine at one budget.

    Args:
        load: what to run.
        budget: as `Budget.parse` reads it, or `transformers` for stock generate.

    Returns:
        The numbers; where memory is full, a cell that says so.
    """
    stock = budget == STOCK
    cell = Cell(
        STOCK if stock else "prefixkv",
        "100%" if stock else Budget.parse(budget).text,
        None if stock else load.method,
        load.context_tokens,
        load.batch,
        load.new_tokens,
    )
    if not stock and uses_look_ahead(load, budget):
        cell = replace(cell, look_ahead_queries=0 if load.look_ahead is None else len(load.look_ahead.offsets))
    gc.collect()
    hardware.reset_peak(load.device)
    try:
        return _measure_stock(load, cell) if stock else _measure_own(load, cell)
    except torch.OutOfMemoryError:
        return replace(cell, failure="out of memory")
    finally:
        gc.collect()
        hardware.reset_peak(load.device)


def uses_look_ahead(load: Load, budget: str) -> bool:
    """Whether look-ahead queries make a difference."""
    method = get_method(load.method)
    return method.is_guided and not Capacity(load.geometry, Budget.parse(budget), method).keeps_all


def _timed(load: Load, work: Callable[[], object]) -> float:
    hardware.synchronize(load.device)
    started = time.perf_counter()
    work()
    hardware.synchronize(load.device)
    return time.perf_counter() - started


def _peak(load: Load, before: int) -> int | None:
    peak = hardware.peak_bytes(load.device)
    return None if peak is None else peak - before


@torch.no_grad()
def _measure_own(load: Load, cell: Cell) -> Cell:
    model, prompt, before = load.model, load.prompt(), hardware.allocated_bytes(load.device)

    def new_cache() -> PrefixKVCache:
        return PrefixKVCache(load.geometry, cell.budget, load.method, load.keep_fractions, load.look_ahead)

    with attention.installed(model):
        read = partial(read_rows, model, prompt, new_cache, load.rows_at_once)
        prefills = [_timed(load, read) for _ in range(load.repeats + 1)] if load.repeats else []
        hardware.reset_peak(load.device)
        started = time.perf_counter()
        cache, rest = read_rows(model, prompt[:, :-1], new_cache, load.rows_at_once)[0], prompt[:, -1:]
        hardware.synchronize(load.device)
        once = time.perf_counter() - started
        prefill_peak = _peak(load, before)
        refusals: list[str] = []
        steps = decode_rows(model, {"input_ids": rest}, cache, Sampling(load.new_tokens), notify=refusals.append)
        seconds = list(_durations(steps))
        usage, plain = (
            cache.usage(),
            bool(refusals) or not CapturedStep.is_ready(model, load.batch, cache.layers[0].bits or WHOLE_BITS),
        )
    first, later = seconds[1], seconds[2:]
    return replace(
        cell,
        path="plain" if plain else "captured",
        prefill_ms=hardware.median_ms(prefills[1:] or [once]),
        step_ms=hardware.median_ms(later),
        first_step_ms=first * 1000,
        tokens_per_second=load.batch * len(later) / sum(later),
        kv_bytes=usage.kept_bytes,
        prefill_peak_bytes=prefill_peak,
        peak_bytes=_peak(load, before),
        roofline_ms=load.roofline_ms(usage.kept_bytes),
    )


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

    prefills = [_timed(load, read) for _ in range(load.repeats + 1)]
    hardware.reset_peak(load.device)
    read()
    prefill_peak = _peak(load, before)
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
        peak_bytes=_peak(load, before),
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
