"""A server of a shape's random weights under many clients, beside the engine's own batch of the same lines.

`python -m benchmarks.served FILE.json` on a GPU: LLaVA-1.5-7B's shape, 64 clients in processes of their own, 192
requests with a picture each, 700 tokens, for 256 new ones that no end token cuts short. The batch and the same closed
loop of as many requests without HTTP come first, in a process that has ended when the server begins.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import itertools
import json
import multiprocessing
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvicorn
from PIL import Image

import prefixkv
from prefixkv.benchmark import hardware
from prefixkv.benchmark.random_model import IMAGE_TOKEN, build_shape
from prefixkv.documents import write_json
from prefixkv.engine.engine import ALLOWANCE
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.frontend import Frontend
from prefixkv.models.loading import LoadedModel, load_model
from prefixkv.policy.budget import Budget
from prefixkv.server.app import Limits, Service
from prefixkv.server.desk import Desk, Manner
from prefixkv.server.engine_process import EngineOrder, EngineProcess
from prefixkv.server.keys import Keys
from prefixkv.server.remote_engine import RemoteEngine

BUDGET = "20%"
WORDS = 124
TEMPLATE = (
    "{% for message in messages %}{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image> {% else %}{{ part.text }} {% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def question(line: int) -> str:
    """A line's words, each a token."""
    draw = random.Random(line)
    return " ".join(f"w{draw.randrange(5, 190)}" for _ in range(WORDS))


def picture(line: int) -> Image.Image:
    """A line's picture."""
    return Image.fromarray(np.random.default_rng(line).integers(0, 255, (24, 24, 3), dtype="uint8")).resize((336, 336))


def loaded_shape(shape: str, device: str, notify: Callable[[str], None] = lambda text: None) -> LoadedModel:
    """Random weights with the demo's image processor and a tokenizer that has a word for every token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model, geometry = build_shape(shape, device, "auto")
    named = {0: "<unk>", 1: "</s>", IMAGE_TOKEN: "<image>"}
    size = model.config.get_text_config().vocab_size
    words = Tokenizer(models.WordLevel({named.get(each, f"w{each}"): each for each in range(size)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    processor: Any = load_model("demo", "cpu").processor
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", additional_special_tokens=["<image>"]
    )
    processor.image_token_id, processor.chat_template = IMAGE_TOKEN, TEMPLATE
    model.generation_config.eos_token_id = None
    return LoadedModel("random", model, processor, geometry, model.device, True, 0.0)


def prompts_of(loaded: LoadedModel, asked: argparse.Namespace) -> list[Prompt]:
    """All lines, as `batch` has them ready before it asks."""
    return [Prompt(loaded.processor, [Turn(question(line), (picture(line),))]) for line in range(asked.lines)]


def batch(engine: prefixkv.Engine, prompts: list[Prompt], asked: argparse.Namespace) -> float:
    """Tokens a second where the engine has all lines from the beginning."""
    began = time.perf_counter()
    streams = [engine.submit(prompt, BUDGET, Sampling(asked.tokens), stop_tokens=()) for prompt in prompts]
    tokens = sum(len(stream.result()) for stream in streams)
    return tokens / (time.perf_counter() - began)


def closed_loop(engine: prefixkv.Engine, prompts: list[Prompt], asked: argparse.Namespace) -> float:
    """Tokens a second where a line is asked when another has ended, as clients do."""
    left, counts, ended = deque(prompts), list[int](), threading.Event()

    def follow(stream: Any = None) -> None:
        if stream is not None:
            counts.append(len(stream.tokens))
        if left:
            engine.submit(left.popleft(), BUDGET, Sampling(asked.tokens), stop_tokens=(), on_end=follow)
        elif len(counts) == len(prompts):
            ended.set()

    began = time.perf_counter()
    for _ in range(min(asked.clients, len(prompts))):
        follow()
    ended.wait()
    return sum(counts) / (time.perf_counter() - began)


def alone(asked: argparse.Namespace) -> dict[str, Any]:
    """What the engine gives without a server; the first run of each compiles and captures, and is not counted.

    The batch reads its prompts as `prefixkv batch` does, the closed loop as a server does, a part between two steps.
    """
    loaded = loaded_shape(asked.shape, asked.device)
    prompts = prompts_of(loaded, asked)
    found: dict[str, Any] = hardware.describe(loaded.device)
    for name, measure, allowance in (("batch", batch, None), ("closed_loop", closed_loop, ALLOWANCE)):
        with prefixkv.Engine(loaded, asked.method, most_rows=asked.clients, allowance=allowance) as engine:
            runs = [measure(engine, prompts, asked) for _ in range(asked.runs + 1)]
        print(name, runs, file=sys.stderr, flush=True)
        found[f"{name}_tokens_per_second"] = runs[1:]
    return found


def served(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the clients measured of a server in this process and its engine's, run by run."""
    with EngineProcess() as process:
        engine = RemoteEngine(process)
        options = {"method": asked.method, "most_rows": asked.clients}
        engine.order(EngineOrder(partial(loaded_shape, asked.shape, asked.device), options))
        frontend = Frontend.of(loaded_shape(asked.shape, "meta"))
        engine.wait()
        desk = Desk(frontend, engine, Manner(Budget.parse(BUDGET), asked.method, "auto"))
        listener = socket.create_server(("127.0.0.1", 0))
        app = Service(desk, Keys.read(None, "unused"), Limits(4 * asked.clients, True)).app()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        both = psutil.Process(), psutil.Process(process.number)
        for number in range(asked.runs + 1):
            before = [sum(each.cpu_times()[:2]) for each in both]
            run = of_clients(asked, listener.getsockname()[1])
            after = [sum(each.cpu_times()[:2]) for each in both]
            run["processor_seconds"] = {
                "http": round(after[0] - before[0], 2),
                "engine": round(after[1] - before[1], 2),
            }
            print(f"served, run {number}: {json.dumps(run)}", file=sys.stderr, flush=True)
            if number:
                yield run
        server.should_exit = True
        thread.join(20)


def of_clients(asked: argparse.Namespace, port: int) -> dict[str, Any]:
    """Start the clients, in several processes, and put together what they tell."""
    processes = []
    for number in range(asked.processes):
        words = [sys.executable, "-m", "benchmarks.served", "-", "--port", str(port), "--part", str(number)]
        for name in ("clients", "lines", "tokens", "processes"):
            words += [f"--{name}", str(getattr(asked, name))]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True))
    # All have started and made their requests before the first of them asks.
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit("a process of clients has ended before it began")
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    told = [json.loads(process.communicate()[0]) for process in processes]
    # Until the last answer, not until the interpreters have ended.
    seconds = max(each["ended"] for each in told) - min(each["began"] for each in told)
    firsts, gaps, tokens = ([value for each in told for value in each[name]] for name in ("firsts", "gaps", "tokens"))
    found = {"seconds": seconds, "tokens": sum(tokens), "tokens_per_second": sum(tokens) / seconds}
    return {**found, "time_to_first_token": _shares(firsts), "time_per_token": _shares(gaps)}


def ask_all(asked: argparse.Namespace) -> dict[str, Any]:
    """Be some of the clients: each asks a line, reads its stream to the end, and asks the next that is left."""
    bodies = []
    for line in range(asked.part, asked.lines, asked.processes):
        image = io.BytesIO()
        picture(line).save(image, "PNG")
        address = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question(line)}]
        options = {"max_completion_tokens": asked.tokens, "temperature": 0, "stream": True}
        body = {"messages": [{"role": "user", "content": parts}], "stream_options": {"include_usage": True}, **options}
        bodies.append(json.dumps(body).encode())
    left, firsts, gaps, tokens = deque(bodies), list[float](), list[float](), list[int]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", asked.port)
        while left:
            try:
                body = left.popleft()
            except IndexError:
                return
            times = [time.perf_counter()]
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise SystemExit(reply.read().decode())
            for event in iter(reply.readline, b""):
                if event.startswith(b"data: {"):
                    times.append(time.perf_counter())
                    if usage := json.loads(event[6:]).get("usage"):
                        tokens.append(usage["completion_tokens"])
            # The first piece has the role and no token.
            firsts.append(times[2] - times[0])
            gaps.extend(later - earlier for earlier, later in itertools.pairwise(times[2:]))

    print("ready", flush=True)
    sys.stdin.read()
    clients = [threading.Thread(target=client) for _ in range(asked.part, asked.clients, asked.processes)]
    began = time.time()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return {"began": began, "ended": time.time(), "firsts": firsts, "gaps": gaps, "tokens": tokens}


def _shares(values: list[float]) -> dict[str, float]:
    values = sorted(values)
    return {"p50": statistics.median(values), "p99": values[min(len(values) - 1, int(0.99 * len(values)))]}


def main() -> None:
    """Measure and write; or be the clients of a server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--method", default="prefixkv")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--lines", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=4, help="of clients")
    parser.add_argument("--port", type=int, help="of a server, whose clients to be")
    parser.add_argument("--part", type=int, default=0, help="which of the processes of clients to be")
    asked = parser.parse_args()
    if asked.port is not None:
        print(json.dumps(ask_all(asked)))
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        record = pool.submit(alone, asked).result()
    median = statistics.median(record["batch_tokens_per_second"])
    record |= {"served": [], "of_batch": []}
    write_json(asked.out, record)
    for run in served(asked):
        record["served"].append(run)
        record["of_batch"].append(run["tokens_per_second"] / median)
        # What is measured is there though the rest be stopped.
        write_json(asked.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
