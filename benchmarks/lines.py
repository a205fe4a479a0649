"""A batch of lines of all lengths on one engine, over the least time that it takes; and its peer on the same text.

`python -m benchmarks.lines FILE.json` on a GPU: LLaVA-1.5-7B's shape, random weights, 512 lines with a picture each.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import prefixkv
from prefixkv.benchmark import hardware
from prefixkv.benchmark.load import Load
from prefixkv.benchmark.random_model import IMAGE_TOKEN, build_shape
from prefixkv.engine.stepper import Stepper
from prefixkv.generation.sampling import Sampling

BUDGET = "20%"
FAIR_TOKENS, FAIR_ROWS, FAIR_PROMPT = 2944, 16, 1024


@dataclass(frozen=True)
class Asked:
    """One line.

    Attributes:
        number: its own; draws its picture and text.
        prompt_tokens: the picture's among them.
        new_tokens: of its answer, whose end no token brings about.
    """

    number: int
    prompt_tokens: int
    new_tokens: int


def drawn_lines(count: int, prompt: tuple[int, int], answer: tuple[int, int]) -> list[Asked]:
    """Lines of uniformly drawn lengths, the same every time.

    Args:
        count: lines.
        prompt: fewest and most tokens.
        answer: likewise.
    """
    draw = random.Random(7)
    return [Asked(number, draw.randint(*prompt), draw.randint(*answer)) for number in range(count)]


def inputs_of(line: Asked, model: Any, with_picture: bool = True) -> dict[str, torch.Tensor]:
    """A line's prompt: a random picture behind the first token where the model sees and it fits, then random text."""
    generator = torch.Generator().manual_seed(1000 + line.number)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(5, vocabulary * 9 // 10, (1, line.prompt_tokens), generator=generator)
    tower = getattr(model.config, "vision_config", None)
    if tower is None or not with_picture:
        return {"input_ids": ids}
    patches = (tower.image_size // tower.patch_size) ** 2
    if line.prompt_tokens <= patches + 1:
        return {"input_ids": ids}
    ids[:, 1 : 1 + patches] = IMAGE_TOKEN
    shape = 1, tower.num_channels, tower.image_size, tower.image_size
    return {"input_ids": ids, "pixel_values": torch.randn(shape, generator=generator)}


class Steps:
    """Counts the steps of engines while the `with` lasts."""

    def __enter__(self) -> Steps:
        """Begin at 0."""
        self.count, advance = 0, Stepper.advance

        def counted(stepper: Stepper) -> None:
            self.count += 1
            advance(stepper)

        self._before = advance
        Stepper.advance = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        """Count no longer."""
        Stepper.advance = self._before  # type: ignore[method-assign]


def read_seconds(model: Any, method: str, lengths: list[int]) -> float:
    """The time of reading prompts of these lengths, each alone: measured at nine lengths, straight lines between."""
    least, most = min(lengths), max(lengths)
    marks = sorted({least + (most - least) * part // 8 for part in range(9)})
    times = []
    with prefixkv.Engine(model, method, most_rows=1) as engine:
        for mark in marks:
            line = Asked(9000 + mark, mark, 1)

            def read(line: Asked = line) -> None:
                engine.submit(inputs_of(line, model), BUDGET, Sampling(1), stop_tokens=()).result()

            read()
            times.append(statistics.median(hardware.timed(model.device, read) for _ in range(3)))
    return sum(_between(marks, times, length) for length in lengths)


def _between(marks: list[int], times: list[float], length: int) -> float:
    for low, high, early, late in zip(marks, marks[1:], times, times[1:], strict=False):
        if length <= high:
            return early + (late - early) * (length - low) / (high - low)
    return times[-1]


def run_lines(
    model: Any, geometry: Any, lines: list[Asked], method: str, rows: int, bandwidth: float
) -> dict[str, Any]:
    """Answer all lines on one engine, and what that takes at least.

    The least is the time of reading the prompts, and for all steps together reading the weights once each and the
    entries of every row that runs, a fifth of its tokens, at the device's bandwidth.
    """
    load = Load(model, geometry, 0, 1, 3, bandwidth)
    weight_seconds = load.roofline_ms(0) / 1000
    kept = (
        sum(0.2 * (line.prompt_tokens + step) for line in lines for step in range(1, line.new_tokens))
        * geometry.layers
        * geometry.entry_bytes
    )
    reading = read_seconds(model, method, [line.prompt_tokens for line in lines])
    prompts = [inputs_of(line, model) for line in lines]
    before = hardware.allocated_bytes(model.device)
    with prefixkv.Engine(model, method, most_rows=rows, allowance=None) as engine:
        # Kernels are compiled and steps captured for every number of rows.
        warm = [
            engine.submit(prompts[row], BUDGET, Sampling(2 * rows - row + 2), stop_tokens=()) for row in range(rows)
        ]
        for stream in warm:
            stream.result()
        hardware.reset_peak(model.device)
        with Steps() as steps:
            began = time.perf_counter()
            streams = [
                engine.submit(prompt, BUDGET, Sampling(line.new_tokens), stop_tokens=())
                for line, prompt in zip(lines, prompts, strict=True)
            ]
            tokens = sum(len(stream.result()) for stream in streams)
            seconds = time.perf_counter() - began
        memory = engine.memory_bytes
    least = reading + steps.count * weight_seconds + kept / bandwidth
    return {
        "lines": len(lines),
        "method": method,
        "rows": rows,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "steps": steps.count,
        "reading_seconds": reading,
        "weights_seconds": steps.count * weight_seconds,
        "entries_seconds": kept / bandwidth,
        "least_seconds": least,
        "over_least": seconds / least,
        "memory_bytes": memory,
        "peak_bytes": hardware.peak_above(model.device, before),
    }


def run_fairness(model: Any, method: str, rows: int, prompt: int, long: int, repeats: int = 5) -> dict[str, Any]:
    """Times per token of running rows with and without a long prompt that is read beside them, in milliseconds."""
    alone: list[float] = []
    beside: list[float] = []
    with prefixkv.Engine(model, method, most_rows=rows + 1) as engine:
        for turn in range(repeats + 1):
            lines = [Asked(100 * turn + row, prompt, 160) for row in range(rows)]
            running = [engine.submit(inputs_of(line, model), BUDGET, Sampling(160), stop_tokens=()) for line in lines]
            while len(running[-1].tokens) < 40:
                time.sleep(0.001)
            question = inputs_of(Asked(100 * turn + 99, long, 2), model)
            read = engine.submit(question, BUDGET, Sampling(2), stop_tokens=())
            read.result()
            for stream in running:
                stream.result()
            if turn:
                # The first turn compiles and captures.
                begin, end = read.submitted_at, read.times[0]
                settled = running[-1].times[10]
                for stream in running:
                    for earlier, later in zip(stream.times, stream.times[1:], strict=False):
                        if earlier < end and later > begin:
                            beside.append((later - earlier) * 1000)
                        elif earlier > settled:
                            alone.append((later - earlier) * 1000)
    median = statistics.median(alone)
    found = {"p50": _quantile(beside, 0.5), "p90": _quantile(beside, 0.9), "p99": _quantile(beside, 0.99)}
    return {
        "rows": rows,
        "row_tokens": prompt,
        "read_tokens": long,
        "median_alone_ms": median,
        "p99_alone_ms": _quantile(alone, 0.99),
        **{f"{name}_while_read_ms": value for name, value in found.items()},
        "p99_over_median": found["p99"] / median,
    }


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def text_model(model: Any) -> Any:
    """The language part of a model with its head, as transformers' own causal model of text; shares the weights."""
    from transformers import AutoModelForCausalLM

    if getattr(model.config, "vision_config", None) is None:
        return model
    with torch.device("meta"):
        text = AutoModelForCausalLM.from_config(model.config.get_text_config())
    text.model, text.lm_head = model.get_decoder(), model.get_output_embeddings()
    text.generation_config.eos_token_id = text.generation_config.pad_token_id = None
    return text.eval()


def peer_runs(model: Any, lines: list[Asked], memory: tuple[float, ...], seconds: float) -> Iterator[dict[str, Any]]:
    """Transformers' continuous batching on the lines as text: each setting for some seconds, then the best to the end.

    Where that one fails the next best is taken, until one has answered all lines.

    Args:
        model: of text.
        lines: what is asked.
        memory: shares of the free memory that its cache may take.
        seconds: after which a setting is left; the best one is not.

    Yields:
        A record for each.
    """
    from itertools import product

    tried = []
    for graphs, share in product((False, True), memory):
        found = _peer(model, lines, graphs, share, seconds)
        tried.append(found)
        yield found
    for best in sorted(tried, key=lambda found: -(found["tokens_per_second"] or 0.0)):
        if best["tokens_per_second"]:
            found = _peer(model, lines, best["graphs"], best["memory_share"], None)
            yield found | {"is_best": found.get("ended") == len(lines)}
            if found.get("ended") == len(lines):
                return


def _peer(model: Any, lines: list[Asked], graphs: bool, share: float, seconds: float | None) -> dict[str, Any]:
    from transformers.generation.configuration_utils import ContinuousBatchingConfig, GenerationConfig

    record: dict[str, Any] = {"graphs": graphs, "memory_share": share, "lines": len(lines), "tokens_per_second": None}
    generation = GenerationConfig(max_new_tokens=max(line.new_tokens for line in lines), do_sample=False)
    generation.eos_token_id = -1
    config = ContinuousBatchingConfig(use_cuda_graph=graphs, max_memory_percent=share)
    prompts = [inputs_of(line, model, with_picture=False)["input_ids"][0].tolist() for line in lines]
    counts: dict[str, int] = {}
    try:
        with (
            torch.no_grad(),
            model.continuous_batching_context_manager(
                generation_config=generation, continuous_batching_config=config, block=True, timeout=30
            ) as manager,
        ):
            began = time.perf_counter()
            # What is stopped before its end says how far it is by its stream.
            for line, ids in zip(lines, prompts, strict=True):
                manager.add_request(
                    ids,
                    f"line_{line.number}",
                    max_new_tokens=line.new_tokens,
                    streaming=seconds is not None,
                    eos_token_id=-1,
                )
            ended = 0
            while ended < len(lines) and (seconds is None or time.perf_counter() - began < seconds):
                result = manager.get_result(timeout=0.1)
                if result is not None:
                    counts[result.request_id] = len(result.generated_tokens)
                    ended += result.is_finished()
                elif not manager.is_running():
                    return record | {"failure": "its thread ended"}
            took = time.perf_counter() - began
            tokens = sum(counts.values())
            record |= {"seconds": took, "tokens": tokens, "ended": ended, "tokens_per_second": tokens / took}
            for line in lines if ended < len(lines) else []:
                manager.cancel_request(f"line_{line.number}")
    except Exception as error:
        # What was measured before stays, also where its thread does not end as it should.
        return record | {"failure": f"{type(error).__name__}: {error}"}
    return record


def main() -> None:
    """Measure, print a line for each part, and write all of it whenever a part is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", default="guided")
    parser.add_argument("--lines", type=int, default=512)
    parser.add_argument("--peer-lines", type=int, default=96)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--prompt", type=int, nargs=2, default=(640, 2944))
    parser.add_argument("--answer", type=int, nargs=2, default=(16, 256))
    parser.add_argument("--peer-seconds", type=float, default=12.0)
    asked = parser.parse_args()
    model, geometry = build_shape(asked.shape, asked.device, "auto")
    bandwidth = hardware.copy_bandwidth(model.device)
    record: dict[str, Any] = hardware.describe(model.device) | {"shape": asked.shape, "copy_bandwidth": bandwidth}
    lines = drawn_lines(asked.lines, tuple(asked.prompt), tuple(asked.answer))

    def keep(name: str, value: Any) -> None:
        record[name] = value
        print(name, json.dumps(value), flush=True)
        asked.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    scale = asked.prompt[1] / FAIR_TOKENS
    keep("fairness", run_fairness(model, asked.method, FAIR_ROWS, max(2, int(FAIR_PROMPT * scale)), asked.prompt[1]))
    keep("engine", run_lines(model, geometry, lines, asked.method, asked.rows, bandwidth))
    if asked.peer_lines:
        peers: list[dict[str, Any]] = []
        for found in peer_runs(text_model(model), lines[: asked.peer_lines], (0.5, 0.8), asked.peer_seconds):
            peers.append(found)
            keep("transformers_continuous_batching", peers)
        best = max((found["tokens_per_second"] or 0.0 for found in peers if found.get("is_best")), default=0.0)
        if best:
            keep("over_peer", record["engine"]["tokens_per_second"] / best)


if __name__ == "__main__":
    main()
