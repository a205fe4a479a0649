"""A real server in a process of its own, and what tests ask it."""

from __future__ import annotations

import base64
import io
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from prefixkv.documents import read_json
from tests.cli.program import PROGRAM, environment

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Running:
    """A server.

    Attributes:
        url: without a path.
        process: it.
        home: its folder of files.
        key: one that it takes; None where it needs none.
    """

    url: str
    process: subprocess.Popen[str]
    home: Path
    key: str | None = None

    def metrics(self) -> dict[str, float]:
        """What it counts, by name and labels."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def engine(self) -> psutil.Process:
        """The process that has the model."""
        (child,) = (each for each in psutil.Process(self.process.pid).children() if "spawn_main" in each.cmdline()[-2])
        return child

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a gauge has a value."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while self.metrics()[name] != value:
            assert time.monotonic() < ends, (name, self.metrics()[name], value)
            time.sleep(0.02)


@contextmanager
def running(home: Path, *words: str, key: str | None = None, code: int = 0) -> Iterator[Running]:
    """Start a server with the demo model on a free port, and end it; see how it ends."""
    found = home / "server.json"
    command = [*PROGRAM, "serve", "--model", "demo", "--device", "cpu", "--port", "0", *words]
    started = {**environment(), "PREFIXKV_HOME": str(home), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=started, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not found.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield Running(read_json(found)["url"], process, home, key)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code
    assert code == -signal.SIGKILL or not found.exists()


def data_address(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as the API takes it."""
    file = io.BytesIO()
    image.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def user(text: str, *pictures: Image.Image | str) -> dict[str, Any]:
    """A question with its pictures before it."""
    urls = [picture if isinstance(picture, str) else data_address(picture) for picture in pictures]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
