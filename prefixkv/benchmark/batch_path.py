"""Measures a step of `Engine`, whose requests are the rows of a load: what `prefixkv batch` stands on.

A step is the time from the first few tokens of all rows to the end of the answers, divided by the tokens between: what
reading the prompts one after another and taking the rows in cost is not in it.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from prefixkv.benchmark import generate_path, hardware
from prefixkv.benchmark.cell import Cell
from prefixkv.benchmark.load import Load
from prefixkv.engine.engine import Engine
from prefixkv.engine.stream import Stream
from prefixkv.generation.sampling import Sampling


def measure_batch(load: Load, budget: str, cell: Cell) -> Cell:
    """Measure the engine.

    Args:
        load: what to run; its rows are shorter by 0 up to `padding_tokens`.
        budget: of each request, as `Budget.parse` reads it.
        cell: what is known beforehand.
    """
    before, held, inputs = hardware.allocated_bytes(load.device), [0], load.inputs()
    rows = []
    for row, padding in enumerate(load.paddings):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        rows.append(one | {"input_ids": one["input_ids"][:, padding:]})

    def ask(tokens: int) -> list[Stream]:
        streams = [engine.submit(row, budget, Sampling(tokens), stop_tokens=()) for row in rows]
        for stream in streams:
            for number, _ in enumerate(stream):
                if number == tokens - 1:
                    held[0] = max(held[0], engine.used_bytes)
        return streams

    def run(tokens: int) -> float:
        return hardware.timed(load.device, lambda: ask(tokens))

    def step() -> float:
        streams = ask(generate_path.MANY_TOKENS)
        begun, ended = (
            max(stream.times[tokens - 1] for stream in streams)
            for tokens in (generate_path.FEW_TOKENS, generate_path.MANY_TOKENS)
        )
        return (ended - begun) / (generate_path.MANY_TOKENS - generate_path.FEW_TOKENS)

    with Engine(load.model, load.method, most_rows=load.batch, allowance=None, codec=load.codec) as engine:
        first = run(1)
        first_steps = run(2) - run(1)
        prefills = [run(1) for _ in range(load.repeats)]
        hardware.reset_peak(load.device)
        # What is compiled or captured for a length is not timed.
        ask(generate_path.MANY_TOKENS)
        step_ms = statistics.median(step() for _ in range(generate_path.RUNS)) * 1000
    return replace(
        cell,
        path="batch",
        prefill_ms=hardware.median_ms(prefills or [first]),
        step_ms=step_ms,
        first_step_ms=first_steps * 1000,
        tokens_per_second=load.batch / step_ms * 1000,
        kv_bytes=held[0],
        peak_bytes=hardware.peak_above(load.device, before),
        roofline_ms=load.roofline_ms(held[0]),
    )
