"""Processor time until the program answers, beside what stock transformers takes to be imported, in one run.

`python -m benchmarks.startup docs/results/startup.json` writes medians of five runs, in seconds.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefixkv.demo import scene_path

RUNS = 5
_PROGRAM = ["-m", "prefixkv_cli"]
_STOCK = "import torch, transformers; from transformers import LlavaForConditionalGeneration"
_ASK = ["chat", str(scene_path()), "--model", "demo", "--device", "cpu", "-q", "-p", "How many objects are there?"]
_TAB = {"_PREFIXKV_COMPLETE": "complete_bash", "COMP_WORDS": "prefixkv chat --mo", "COMP_CWORD": "2"}
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "stock imports": (["-c", _STOCK], {}),
    "one question to the demo model": ([*_PROGRAM, *_ASK], {}),
    "--help": ([*_PROGRAM, "--help"], {}),
    "info demo": ([*_PROGRAM, "info", "demo"], {}),
    "completion of an option": (_PROGRAM, _TAB),
}


def measure() -> dict[str, Any]:
    """Median seconds of user and system time of each case; the cases take turns."""
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as home:
        for _ in range(RUNS):
            for name, (words, variables) in CASES.items():
                environment = {**os.environ, "PREFIXKV_HOME": home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
                before = _children()
                done = subprocess.run([sys.executable, *words], env=environment | variables, capture_output=True)
                assert done.returncode == 0, done.stderr
                taken[name].append(_children() - before)
    return {
        "format": "prefixkv-startup",
        "version": 1,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "transformers", "typer")},
        "processor_seconds": {name: round(statistics.median(values), 2) for name, values in taken.items()},
        "load_average": round(os.getloadavg()[0], 1),
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
