"""The result of a run on a GPU as one JSON file: versions, device, counts, failures by name, and what was combined."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prefixkv.evaluation.engine import engine_digest
from prefixkv.machine import describe_machine

VARIABLE = "PREFIXKV_GPU_RESULTS"
"""Environment variable that names the file; nothing is written where it is not set."""
COMBINATION = "combination"
"""Name of a test's property: the command, the method and the dtype that it has run together."""
PACKAGES = ("torch", "triton", "transformers", "accelerate", "prefixkv")


class GpuReport:
    """A plugin of pytest that counts outcomes and writes them when the session ends."""

    def __init__(self, path: Path) -> None:
        """Begin.

        Args:
            path: of the file.
        """
        self._path, self._started = path, time.perf_counter()
        self._outcomes: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._seconds: Counter[str] = Counter()
        self._combinations: set[tuple[str, str, str]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how one phase of a test has ended; whatever fails or is skipped in any phase decides."""
        self._seconds[report.nodeid] += report.duration
        if report.when == "call" or not report.passed:
            self._outcomes[report.nodeid] = report.outcome
        if report.passed:
            if report.when == "call":
                self._combinations |= {tuple(value) for name, value in report.user_properties if name == COMBINATION}
        else:
            self._reasons[report.nodeid] = _reason(report)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file."""
        counts = Counter(self._outcomes.values())
        named = {
            outcome: {name: self._reasons[name] for name, found in self._outcomes.items() if found == outcome}
            for outcome in ("failed", "skipped")
        }
        record = {
            "format": "prefixkv-gpu-tests",
            "version": 2,
            **_machine(),
            "source": engine_digest(),
            "counts": {name: counts[name] for name in ("passed", "failed", "skipped")},
            "by_file": self._by_file(),
            "seconds": round(time.perf_counter() - self._started, 1),
            "failures": named["failed"],
            "skips": Counter(named["skipped"].values()),
            "combinations": self._combined(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    def _by_file(self) -> dict[str, dict[str, float]]:
        """Each file's outcomes, and the seconds that its tests took."""
        files: dict[str, Counter[str]] = {}
        for name, outcome in self._outcomes.items():
            files.setdefault(name.partition("::")[0], Counter())[outcome] += 1
        seconds: Counter[str] = Counter()
        for name, taken in self._seconds.items():
            seconds[name.partition("::")[0]] += taken
        return {name: {**found, "seconds": round(seconds[name], 1)} for name, found in sorted(files.items())}

    def _combined(self) -> dict[str, Any]:
        """How many commands, methods and dtypes have run, and how many different ones together."""
        commands, methods, dtypes = (sorted({one[place] for one in self._combinations} - {""}) for place in range(3))
        return {
            "commands_x_methods_x_dtypes": len(self._combinations),
            "commands": commands,
            "methods": methods,
            "dtypes": dtypes,
        }


def _reason(report: pytest.TestReport) -> str:
    """The last line of what went wrong; why a test was skipped."""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else crash.message
    return re.sub(r"\s+", " ", text)[:400]


def _machine() -> dict[str, Any]:
    found = describe_machine()
    packages = {"prefixkv": found["prefixkv"], **found["packages"]}
    return {
        "versions": {"python": found["python"], **{name: packages.get(name) for name in PACKAGES}},
        "cuda": found["cuda"],
        "gpus": found["gpus"],
    }
