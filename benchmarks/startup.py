"""Processor time until the program answers, beside what stock transformers takes to be imported, in one run.

`python -m benchmarks.startup docs/results/startup.json` writes medians of five runs, in seconds.
"""

from __future__ import annotations

import json
import os
import platform
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefixkv.batch.lines import read_lines
from prefixkv.batch.records import record_bytes
from prefixkv.demo import scene_path

RUNS = 5
LINES = 1000
"""Of the finished batch."""
_PROGRAM = ["-m", "prefixkv_cli"]
_STOCK = "import torch, transformers; from transformers import LlavaForConditionalGeneration"
_DEMO = ["--model", "demo", "--device", "cpu"]
_ASK = ["chat", str(scene_path()), *_DEMO, "-q", "-p", "How many objects are there?"]
_BATCH = ["batch", "questions.jsonl", "--out", "answers.jsonl", *_DEMO, "--max-new-tokens", "1"]
_TAB = {"_PREFIXKV_COMPLETE": "complete_bash", "COMP_WORDS": "prefixkv chat --mo", "COMP_CWORD": "2"}
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "stock imports": (["-c", _STOCK], {}),
    "one question to the demo model": ([*_PROGRAM, *_ASK], {}),
    "--help": ([*_PROGRAM, "--help"], {}),
    "info demo": ([*_PROGRAM, "info", "demo"], {}),
    "completion of an option": (_PROGRAM, _TAB),
    f"a finished batch of {LINES:,} lines": ([*_PROGRAM, *_BATCH], {}),
}


def measure() -> dict[str, Any]:
    """Median seconds of user and system time of each case, and until a terminal shows something; cases take turns."""
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    shown: list[float] = []
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PREFIXKV_HOME": home, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        # An installed package has its bytecode beside it; a checkout gets it here.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        questions = ({"image": str(scene_path()), "prompt": f"How many objects are there? {n}"} for n in range(LINES))
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        Path(home, "questions.jsonl").write_text(lines, encoding="utf-8")
        _finish_batch(Path(home), environment)
        for words, variables in CASES.values():
            _run(words, environment | variables, home)
        for _ in range(RUNS):
            for name, (words, variables) in CASES.items():
                before = _children()
                _run(words, environment | variables, home)
                taken[name].append(_children() - before)
            shown.append(_seconds_until_shown([*_PROGRAM, *_ASK[:-3]], environment))
    return {
        "format": "prefixkv-startup",
        "version": 2,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "transformers", "typer")},
        "processor_seconds": {name: round(statistics.median(values), 2) for name, values in taken.items()},
        "seconds_until_a_terminal_shows_something": round(statistics.median(shown), 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _finish_batch(home: Path, environment: dict[str, str]) -> None:
    """Have the first line answered, and write its answer for all: how long a model takes is not looked at here."""
    _run([*_PROGRAM, *_BATCH, "--limit", "1"], environment, str(home))
    answers = home / "answers.jsonl"
    first = json.loads(answers.read_text(encoding="utf-8"))
    lines = read_lines(home / "questions.jsonl")
    answers.write_bytes(b"".join(record_bytes(first | {"line": line.number, "input": line.digest}) for line in lines))


def _run(words: list[str], environment: dict[str, str], folder: str) -> None:
    done = subprocess.run([sys.executable, *words], env=environment, cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr
    # Of a batch whose lines are all answered, none is asked again.
    assert words != [*_PROGRAM, *_BATCH] or f"{LINES} of {LINES} lines" in done.stderr.decode(), done.stderr


def _seconds_until_shown(words: list[str], environment: dict[str, str]) -> float:
    """Wall time from Enter to the first thing that a conversation's terminal shows."""
    master, slave = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        os.read(master, 1)
        return time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
