"""A benchmark: which loads are measured at which budgets, and the record of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from prefixkv.benchmark import generate_path, hardware
from prefixkv.benchmark.cell import Cell
from prefixkv.benchmark.load import STATIC, STOCK, Load
from prefixkv.benchmark.random_model import random_look_ahead
from prefixkv.benchmark.run import measure, uses_look_ahead
from prefixkv.cache.reading_graphs import reading_memory
from prefixkv.decoder.captured import CapturedStep
from prefixkv.errors import OptionError
from prefixkv.inputs.positions import answer_room
from prefixkv.methods.table import get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC

RESERVE_BYTES = 4 * 2**30
"""Left to a prefill's working memory and the allocator when the largest batch is sought."""
STEP_BACK = 0.97


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        contexts: prompt lengths, in tokens.
        batches: numbers of rows; 0 is the largest that fits the device.
        budgets: as `Budget.parse` reads them.
        new_tokens: tokens generated for each row.
        method: how entries are chosen.
        baseline: whether stock generate is measured too.
        rows_at_once: rows that are read in one forward pass; all where None.
        equal_shares: whether every layer keeps as much; else the method's own shares.
        repeats: measured prefills of each cell.
        path: see `Load`.
        padding_tokens: see `Load`.
        codec: see `Load`.
    """

    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    budgets: tuple[str, ...]
    new_tokens: int
    method: str
    baseline: bool = True
    rows_at_once: int | None = None
    equal_shares: bool = False
    repeats: int = 3
    path: str = "decode"
    padding_tokens: int = 0
    codec: str = DEFAULT_CODEC


def run_benchmark(
    plan: Plan,
    model: PreTrainedModel,
    geometry: KVGeometry,
    name: str,
    done: Callable[[Cell], None] = lambda cell: None,
) -> dict[str, Any]:
    """Measure cell after cell; stock comes first for each load.

    A method that uses a profile's look-ahead queries is measured with random ones and without.

    Args:
        plan: what to measure.
        model: on its device.
        geometry: shape of its cache.
        name: of the model or shape.
        done: called with each cell.

    Returns:
        Plain values: device, versions, commit, bandwidth, the captured steps and their bytes, and the cells.

    Raises:
        OptionError: a row is longer than the model's positions; or the largest batch is asked for on a device that
            does not say how much it holds.
    """
    new_tokens = plan.new_tokens if plan.path == "decode" else max(plan.new_tokens, generate_path.MANY_TOKENS)
    room = answer_room(model.config, max(plan.contexts))
    if room is not None and room < new_tokens:
        raise OptionError(
            f"rows of {max(plan.contexts):,} tokens leave the model {room:,} positions, and {new_tokens} tokens are "
            "generated: give fewer --context-tokens"
        )
    device = model.device
    if 0 in plan.batches and device.type != "cuda":
        raise OptionError(f"how many rows {device} holds is not known: give a number of rows, max is for GPUs")
    bandwidth = hardware.copy_bandwidth(device)
    cells = []
    shares = (1.0,) * geometry.layers if plan.equal_shares else None
    look_ahead = random_look_ahead(model, geometry) if get_method(plan.method).is_guided else None
    for context in plan.contexts:
        for batch in plan.batches:
            load = Load(model, geometry, context, batch, plan.new_tokens, bandwidth, plan.repeats)
            load = replace(load, method=plan.method, keep_fractions=shares, rows_at_once=plan.rows_at_once)
            load = replace(load, path=plan.path, padding_tokens=plan.padding_tokens, codec=plan.codec)
            peers = (STOCK, STATIC) if plan.path != "decode" and device.type == "cuda" else (STOCK,)
            runs = [(load, peer) for peer in peers] if plan.baseline and batch else []
            for budget in plan.budgets:
                # A request finds its profile by itself, and there is none of random weights.
                if look_ahead is not None and load.path != "batch" and uses_look_ahead(load, budget):
                    runs.append((replace(load, look_ahead=look_ahead), budget))
                runs.append((load, budget))
            for each, budget in runs:
                cell = measure(each, budget) if batch else measure_largest(each, budget)
                cells.append(cell)
                done(cell)
    graphs, graph_bytes = CapturedStep.memory(model)
    return {
        "format": "prefixkv-benchmark",
        "version": 1,
        "model": name,
        "dtype": geometry.dtype,
        **hardware.describe(device),
        "copy_bytes_per_second": bandwidth,
        "captured": {"graphs": graphs, "bytes": graph_bytes, "reading_bytes": reading_memory(model)},
        "cells": [cell.as_dict() for cell in cells],
    }


def measure_largest(load: Load, budget: str) -> Cell:
    """Measure the largest batch that runs: from the one that memory could hold downwards.

    Args:
        load: its number of rows does not matter.
        budget: as `Budget.parse` reads it.
    """
    cell = None
    for batch in _descending(load, budget):
        cell = measure(replace(load, batch=batch, repeats=0), budget)
        if cell.failure is None:
            break
    assert cell is not None
    return cell


def _descending(load: Load, budget: str) -> Iterator[int]:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(load.device)[0]
    tokens = load.context_tokens + load.new_tokens
    # A buffer may be larger than what it holds, and while rows are joined one layer is there twice.
    row = Budget.parse(budget).entries(load.geometry, tokens) * load.geometry.entry_bytes
    row += row // 32 + row // load.geometry.layers
    batch = max(1, int((free - min(RESERVE_BYTES, free // 2)) / row))
    while batch > 1:
        yield batch
        batch = min(batch - 1, int(batch * STEP_BACK))
    yield 1
