"""What a user waits for on a CPU, as ratios within one run: `python -m benchmarks.cpu FILE.json`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.ratio import Ratio, compare, timed

TURNS = ("How many objects are there?", "Describe the image.", "How many red objects are there?")


def program_starts() -> Iterator[Ratio]:
    """Commands that need no model, in new processes, over an interpreter that imports what prints them."""

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as folder:
        plan = ("search", "--model", "llava", "--budget", "20%", "--allocation", "uniform", "--json")
        for name, words in (
            ("prefixkv --help", ("--help",)),
            ("prefixkv chat --help", ("chat", "--help")),
            ("prefixkv models", ("models",)),
            ("prefixkv info demo", ("info", "demo")),
            ("prefixkv search without a profile", (*plan, "--out", f"{folder}/plan.json")),
        ):
            yield compare(
                name,
                ("command", lambda words=words: run("-m", "prefixkv_cli", *words)),
                ("typer and rich imported", lambda: run("-c", "import typer, rich.console, rich.table")),
                repeats=3,
            )


def conversations(loaded: Any) -> Iterator[Ratio]:
    """Contexts and later turns, over reading the picture."""
    from prefixkv.chat.context import load_context, save_context
    from prefixkv.chat.conversation import Conversation
    from prefixkv.demo.scenes import draw_scene

    def read() -> Conversation:
        conversation = Conversation(loaded)
        conversation.attach(draw_scene(11).image)
        conversation.read()
        return conversation

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.safetensors"
        save_context(read(), path, "scene")
        yield compare(
            "a saved context",
            ("opened", lambda: load_context(path, loaded)),
            ("its picture read", read),
            repeats=3,
        )

    firsts: list[list[float]] = []
    for _ in range(3):
        conversation = Conversation(loaded, "1MiB")
        conversation.attach(draw_scene(31).image)
        for turn in range(10):
            for _ in conversation.ask(TURNS[turn % len(TURNS)]):
                pass
        firsts.append([answer.prefill_seconds for _, answer in conversation.history])
    second, tenth = (statistics.median(times[turn] for times in firsts) for turn in (1, 9))
    yield Ratio("time to the first token within 1 MiB", "turn 10", "turn 2", tenth, second, 3)


def live_view(loaded: Any) -> Iterator[Ratio]:
    """The drawing of the cache's bars, over the answer during which they are drawn."""
    from rich.console import Console

    from prefixkv.chat.conversation import Conversation
    from prefixkv.demo.scenes import draw_scene
    from prefixkv.generation.sampling import Sampling
    from prefixkv_cli.dialogue.live_view import Pace, cache_view
    from prefixkv_cli.tables.cache_report import CacheReport

    console = Console(file=open("/dev/null", "w"), force_terminal=True, width=120, height=40)  # noqa: SIM115
    conversation = Conversation(loaded, "20%", sampling=Sampling(200, temperature=5.0, seed=3))
    drawing_seconds, pace = 0.0, Pace()

    def draw() -> None:
        console.print(cache_view(CacheReport.of(conversation), 120, 30))

    conversation.attach(draw_scene(31).image)
    with closing(conversation.ask("Describe the image.")) as pieces:
        next(pieces)
        draw()
        started = time.perf_counter()
        for _ in pieces:
            drawing_seconds += timed(lambda: pace.draw(draw))
    whole = time.perf_counter() - started
    yield Ratio("the live view", "drawing", "answer", drawing_seconds, whole, 1)


def compressed_generation(loaded: Any) -> Iterator[Ratio]:
    """Stock `generate` on a fifth of the cache, over `generate` on the whole."""
    import prefixkv
    from prefixkv.demo.scenes import draw_scene
    from prefixkv.inputs.prompts import Prompt, Turn

    inputs = Prompt(loaded.processor, [Turn("Describe the image.", (draw_scene(31).image,))]).inputs

    def stock(tokens: int) -> None:
        loaded.model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    def compressed(tokens: int, method: str) -> None:
        with prefixkv.compress(loaded.model, "20%", method) as cache:
            loaded.model.generate(
                **inputs, **cache.argument, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )

    for method in ("guided", "prefixkv", "h2o"):
        for name, tokens in (("prompt and first token", 1), ("prompt and 100 tokens", 100)):
            yield compare(
                f"{name}, {method} at 20%",
                ("compressed", lambda tokens=tokens, method=method: compressed(tokens, method)),
                ("stock", lambda tokens=tokens: stock(tokens)),
                repeats=3,
            )


def batches(loaded: Any) -> Iterator[Ratio]:
    """The engine's answers of 30 tokens at a fifth of the cache, over stock `generate` one by one."""
    import prefixkv
    from prefixkv.demo.scenes import draw_scene
    from prefixkv.generation.sampling import Sampling
    from prefixkv.inputs.prompts import Prompt, Turn

    tokens, lines = 30, 48

    def stock(prompts: list[Prompt]) -> None:
        for prompt in prompts:
            loaded.model.generate(**prompt.inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    def engine(prompts: list[Prompt]) -> None:
        with prefixkv.Engine(loaded, "guided", allowance=None) as running:
            streams = [running.submit(prompt, "20%", Sampling(tokens), stop_tokens=()) for prompt in prompts]
            for stream in streams:
                stream.result()

    for name, questions in (("a picture in each line", 1), ("three questions to each picture", 3)):
        prompts = [
            Prompt(loaded.processor, [Turn(TURNS[line % questions], (draw_scene(1000 + line // questions).image,))])
            for line in range(lines)
        ]
        yield compare(
            f"{lines} lines, {name}",
            ("engine", lambda prompts=prompts: engine(prompts)),
            ("stock", lambda prompts=prompts: stock(prompts)),
            repeats=1,
        )


def main(out: Path) -> None:
    """Measure, print a line for each ratio and write all of them.

    Args:
        out: a JSON file.
    """
    import prefixkv
    from prefixkv.machine import describe_machine

    found: list[Ratio] = []
    loaded = prefixkv.load_model("demo", device="cpu")
    parts = program_starts(), conversations(loaded), live_view(loaded), compressed_generation(loaded), batches(loaded)
    for ratios in parts:
        for ratio in ratios:
            print(ratio, flush=True)
            found.append(ratio)
    machine = describe_machine()
    kept = ("prefixkv", "python", "processor", "cores", "torch_threads", "packages")
    record = {"machine": {name: machine[name] for name in kept}, "ratios": [ratio.as_dict() for ratio in found]}
    out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("out", type=Path, help="a JSON file that is written")
    main(words.parse_args().out)
