"""A server under load on a CPU, with the demo model: `python -m benchmarks.serve FILE.json [options of serve]`.

64 clients at once: none fails, each answer is the one that is given alone, and the bytes that are reserved, sampled
from /metrics, stay within the limit. Then 2,000 requests, half of them short texts: how much the processes grow. And
the wall time of `prefixkv chat -p` while the server runs, its start included.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from prefixkv.demo.scenes import draw_scene
from prefixkv.documents import read_json, write_json
from prefixkv.host_memory import SECONDS
from prefixkv.machine import describe_machine

CLIENTS = 64
LOOKED_AT = (200, 500, 1000, 1500, 2000)
"""After so many requests: how much memory there is. From the first on nothing is to grow."""
WORKERS = 8
MEMORY = "32MiB"
GROWTH_MEMORY = "16MiB"
"""So that there are as many kept conversations after the first 200 requests as ever."""
QUESTIONS = ("Describe the image.", "How many objects are there?", "How many red objects are there?")
PROGRAM = (sys.executable, "-m", "prefixkv_cli")


class Server:
    """A running server, as its clients see it."""

    def __init__(self, url: str, process: int) -> None:
        self.url, self.process = url, psutil.Process(process)

    def processes(self) -> list[psutil.Process]:
        """Itself and those that it has started, the engine's among them."""
        return [self.process, *self.process.children(recursive=True)]

    def processor_seconds(self) -> float:
        """That all of them have taken so far."""
        return float(sum(sum(each.cpu_times()[:2]) for each in self.processes()))

    def ask(self, text: str, picture: str | None = None, **options: Any) -> str:
        """One answer."""
        parts: Any = [{"type": "text", "text": text}]
        if picture is not None:
            parts.insert(0, {"type": "image_url", "image_url": {"url": picture}})
        body = json.dumps({"messages": [{"role": "user", "content": parts}], **options}).encode()
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])

    def metric(self, name: str) -> float:
        """A gauge."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as reply:
            lines = reply.read().decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


@contextmanager
def started(memory: str, options: Sequence[str]) -> Iterator[tuple[Server, Path]]:
    """A server in a process and a home of its own."""
    with tempfile.TemporaryDirectory() as folder:
        home, where = Path(folder), {**os.environ, "PREFIXKV_HOME": folder}
        words = ("serve", "--model", "demo", "--port", "0", "--memory", memory, "--device", "cpu", "--quiet")
        process = subprocess.Popen([*PROGRAM, *words, *options], env=where)
        try:
            while not (home / "server.json").exists():
                assert process.poll() is None
                time.sleep(0.1)
            yield Server(read_json(home / "server.json")["url"], process.pid), home
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def sampled(server: Server, name: str) -> Iterator[list[float]]:
    """Values of a gauge while something goes on."""
    values: list[float] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.05):
            values.append(server.metric(name))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield values
    finally:
        ended.set()
        thread.join()


def picture(seed: int) -> str:
    """A drawn scene as a data: address."""
    file = io.BytesIO()
    draw_scene(seed).image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def at_once(server: Server, home: Path) -> dict[str, Any]:
    """All clients together, then each alone."""
    asked = [(QUESTIONS[number % 3], picture(100 + number // 2)) for number in range(CLIENTS)]
    barrier = threading.Barrier(CLIENTS)

    def one(number: int) -> str:
        barrier.wait()
        return server.ask(*asked[number], max_tokens=60)

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as threads, sampled(server, "prefixkv_reserved_bytes") as reserved:
        together = list(threads.map(one, range(CLIENTS)))
        seconds = time.perf_counter() - began
    alone = [server.ask(*each, max_tokens=60) for each in asked]
    return {
        "clients": CLIENTS,
        "answered": len(together),
        "as_alone": sum(a == b for a, b in zip(together, alone, strict=True)),
        "seconds": round(seconds, 2),
        "memory_bytes": int(server.metric("prefixkv_memory_bytes")),
        "most_reserved_bytes": int(max(reserved)),
        "samples": len(reserved),
    }


def growth(server: Server, home: Path) -> dict[str, Any]:
    """Resident memory after the first requests and later, each the median of a few looks.

    They wait until what is free went back to the system: before that it is anything up to 100 MB more.
    """
    scenes = [picture(seed) for seed in range(8)]

    def one(number: int) -> None:
        if number % 2:
            server.ask(f"Say {number}.", max_tokens=4)
        else:
            server.ask(QUESTIONS[number % 3], scenes[number // 16 % 8], max_tokens=8)

    def resident() -> float:
        looks = []
        time.sleep(SECONDS + 1)
        for _ in range(9):
            looks.append(sum(each.memory_info().rss for each in server.processes()))
            time.sleep(0.05)
        return statistics.median(looks)

    looks = []
    with ThreadPoolExecutor(WORKERS) as threads:
        for start, end in itertools.pairwise((0, *LOOKED_AT)):
            list(threads.map(one, range(start, end)))
            kept = server.metric("prefixkv_kept_cache_bytes")
            looks.append({"requests": end, "resident_bytes": int(resident()), "kept_cache_bytes": int(kept)})
            print(looks[-1], flush=True)
    grown = looks[-1]["resident_bytes"] - looks[0]["resident_bytes"]
    return {"looks": looks, "growth_bytes_a_request": round(grown / (LOOKED_AT[-1] - LOOKED_AT[0]), 1)}


def one_shot(server: Server, home: Path) -> dict[str, Any]:
    """`prefixkv chat -p` by the server, start included: by the clock, and the processor time of client and server."""
    where = {**os.environ, "PREFIXKV_HOME": str(home)}
    path = home / "scene.png"
    subprocess.run([*PROGRAM, "demo-scene", str(path), "--seed", "31"], env=where, check=True, capture_output=True)
    seconds, client, serving = [], [], []
    for _ in range(7):
        began, clients, served = time.perf_counter(), os.times(), server.processor_seconds()
        subprocess.run([*PROGRAM, "chat", str(path), "-p", QUESTIONS[1]], env=where, check=True, capture_output=True)
        seconds.append(round(time.perf_counter() - began, 3))
        now = os.times()
        client.append(now.children_user + now.children_system - clients.children_user - clients.children_system)
        serving.append(server.processor_seconds() - served)
    return {
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "client_processor_seconds": round(statistics.median(client), 2),
        "server_processor_seconds": round(statistics.median(serving), 2),
    }


def main(path: Path, options: Sequence[str]) -> None:
    """Measure and write."""
    found: dict[str, Any] = {"machine": describe_machine(), "options": list(options)}
    for memory, parts in ((MEMORY, (one_shot, at_once)), (GROWTH_MEMORY, (growth,))):
        with started(memory, options) as (server, home):
            for measure in parts:
                found[measure.__name__] = {"memory": memory, **measure(server, home)}
                # What is measured is there though the rest be stopped.
                write_json(path, found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
