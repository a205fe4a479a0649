"""A server of a shape's random weights under many clients, beside the engine's own batch of the same lines.

`python -m benchmarks.served FILE.json` on a GPU: LLaVA-1.5-7B's shape, 64 clients in a process of their own, 192
requests with a picture each, 700 tokens, for 256 new ones that no end token cuts short.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import io
import itertools
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

import prefixkv
from prefixkv.benchmark import hardware
from prefixkv.benchmark.random_model import IMAGE_TOKEN, build_shape
from prefixkv.documents import write_json
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import LoadedModel, load_model
from prefixkv.policy.budget import Budget
from prefixkv.server.app import Limits, Service
from prefixkv.server.desk import Desk, Manner
from prefixkv.server.keys import Keys
from prefixkv.server.program import SWITCH_SECONDS

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


def loaded_shape(shape: str, device: str) -> LoadedModel:
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


def batch(loaded: LoadedModel, asked: argparse.Namespace) -> float:
    """Tokens a second of all lines on one engine, prompts made beforehand, as `batch` makes them."""
    prompts = [Prompt(loaded.processor, [Turn(question(line), (picture(line),))]) for line in range(asked.lines)]
    with prefixkv.Engine(loaded, asked.method, most_rows=asked.clients, allowance=None) as engine:
        began = time.perf_counter()
        streams = [engine.submit(prompt, BUDGET, Sampling(asked.tokens), stop_tokens=()) for prompt in prompts]
        tokens = sum(len(stream.result()) for stream in streams)
        return tokens / (time.perf_counter() - began)


def served(loaded: LoadedModel, asked: argparse.Namespace) -> dict[str, Any]:
    """What the clients measured of a server in this process, as `prefixkv serve` runs it."""
    engine = prefixkv.Engine(loaded, asked.method, most_rows=asked.clients)
    desk = Desk(loaded, engine, Manner(Budget.parse(BUDGET), asked.method, "auto"))
    listener = socket.create_server(("127.0.0.1", 0))
    app = Service(desk, Keys.read(None, "unused"), Limits(4 * asked.clients, True)).app()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    thread.start()
    try:
        words = [sys.executable, "-m", "benchmarks.served", "-", "--port", str(listener.getsockname()[1])]
        words += ["--clients", str(asked.clients), "--lines", str(asked.lines), "--tokens", str(asked.tokens)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    finally:
        sys.setswitchinterval(usual)
        server.should_exit = True
        thread.join(20)
        engine.close()
    return dict(json.loads(done.stdout))


def ask_all(asked: argparse.Namespace) -> dict[str, Any]:
    """Be the clients: each asks a line, reads its stream to the end, and asks the next that nobody has asked."""
    bodies = []
    for line in range(asked.lines):
        image = io.BytesIO()
        picture(line).save(image, "PNG")
        address = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
        parts = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question(line)}]
        options = {"max_completion_tokens": asked.tokens, "temperature": 0, "stream": True}
        body = {"messages": [{"role": "user", "content": parts}], "stream_options": {"include_usage": True}, **options}
        bodies.append(json.dumps(body).encode())
    lines, firsts, gaps, tokens = deque(range(asked.lines)), list[float](), list[float](), list[int]()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", asked.port)
        while lines:
            try:
                body = bodies[lines.popleft()]
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

    began = time.perf_counter()
    clients = [threading.Thread(target=client) for _ in range(asked.clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    seconds = time.perf_counter() - began
    found = {"seconds": seconds, "tokens": sum(tokens), "tokens_per_second": sum(tokens) / seconds}
    return {**found, "time_to_first_token": _shares(firsts), "time_per_token": _shares(gaps)}


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
    parser.add_argument("--port", type=int)
    asked = parser.parse_args()
    if asked.port is not None:
        print(json.dumps(ask_all(asked)))
        return
    loaded = loaded_shape(asked.shape, asked.device)
    # The first of each compiles and captures.
    batches = [batch(loaded, asked) for _ in range(3)][1:]
    runs = [served(loaded, asked) for _ in range(4)][1:]
    shares = [run["tokens_per_second"] / statistics.median(batches) for run in runs]
    record = hardware.describe(loaded.device) | {"batch_tokens_per_second": batches, "served": runs, "of_batch": shares}
    write_json(asked.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
