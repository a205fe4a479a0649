"""What all tests share: which of them run, warnings that count as errors, and what is said at the end of a run."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter, defaultdict
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest

from tests.case_selection import spread

os.environ["HF_HUB_OFFLINE"] = "1"
STRICT_WARNINGS = ("FutureWarning", "DeprecationWarning", "PendingDeprecationWarning")
"""Errors in pytest's own process by pyproject.toml; in the processes that tests start by this variable."""
NOT_OURS = ("matplotlib._fontconfig_pattern", "matplotlib._mathtext")
"""Modules that call others by old names, in the lowest versions that are supported."""
os.environ["PYTHONWARNINGS"] = ",".join(
    [f"error::{category}" for category in STRICT_WARNINGS] + [f"ignore::DeprecationWarning:{name}" for name in NOT_OURS]
)

ONLY_GPU = "need a CUDA device (make test-gpu)"
ONLY_BROWSER = "need a browser (make test-browser)"
ONLY_RAY = "start a Ray cluster (make test-ray)"
ONLY_ALL = "are exhaustive (make test-all)"
ONLY_WHOLE = "are further cases of tests that ran (make test-all)"
USUAL = "make test runs"
_VERSIONS = ("torch", "triton", "transformers", "numpy", "pytest")
left_out = pytest.StashKey[Counter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options beside pytest's own."""
    group = parser.getgroup("prefixkv")
    group.addoption("--all", action="store_true", help="also run the exhaustive tests and all their cases")
    group.addoption("--rest", action="store_true", help="run only what --all adds")
    group.addoption("--cases", type=int, metavar="N", help="with --rest: of each test at most so many cases")
    group.addoption("--summary-json", metavar="FILE", help="write versions, counts, failures and reasons of skips")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the count of tests that are left out; hide the GPUs unless their tests are asked for.

    So the other tests are the same on every machine, in the processes that they start, too.
    """
    # Triton's own functions, `tl.sum` and the like, are made for the device or for the interpreter when it is
    # imported, which transformers does too: so this is said before any file of tests is read.
    if "gpu" not in config.option.markexpr:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"
    elif util.find_spec("triton"):
        import torch

        if not torch.cuda.is_available():
            os.environ["TRITON_INTERPRET"] = "1"
    config.stash[left_out] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a CUDA device where there is none, and what is not asked for: browser, exhaustive."""
    out: dict[pytest.Item, str] = {}
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            out |= dict.fromkeys(marked, ONLY_GPU)
    if "browser" not in config.option.markexpr:
        out |= {item: ONLY_BROWSER for item in items if item.get_closest_marker("browser")}
    if "ray" not in config.option.markexpr:
        out |= {item: ONLY_RAY for item in items if item.get_closest_marker("ray")}
    families = _exhaustive([item for item in items if item not in out])
    exhaustive = {item for cases in families for item in cases}
    if config.option.rest and config.option.cases is not None:
        more = (item for cases in families for item in set(cases) - set(_spread(cases, config.option.cases)))
        out |= dict.fromkeys(more, ONLY_WHOLE)
    if config.option.rest:
        out |= dict.fromkeys((item for item in items if item not in exhaustive | out.keys()), USUAL)
    elif not (config.option.all or config.option.markexpr or any("::" in argument for argument in config.args)):
        out |= dict.fromkeys(exhaustive, ONLY_ALL)
    config.stash[left_out].update(out.values())
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]


def _exhaustive(items: list[pytest.Item]) -> list[list[pytest.Item]]:
    """Tests that are marked as exhaustive, each with its cases but for as many as its marker keeps."""
    families: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("exhaustive"):
            families[item.nodeid.partition("[")[0]].append(item)
    out = []
    for cases in families.values():
        marker = cases[0].get_closest_marker("exhaustive")
        assert marker is not None
        chosen = _spread(cases, marker.kwargs.get("keep", 0))
        out.append([case for case in cases if case not in chosen])
    return out


def _spread(cases: list[pytest.Item], keep: int) -> list[pytest.Item]:
    """As many cases of one test, those that show the most values of its parameters."""
    given = [case.callspec.params if hasattr(case, "callspec") else {} for case in cases]
    # By identity: cases share the objects that are listed in a decorator, and not all of these can be hashed.
    values = [{name: id(value) for name, value in params.items()} for params in given]
    return [cases[index] for index in spread(values, keep)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    """Take over from a worker process what it has left out: every worker collects the same."""
    node.config.stash[left_out] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand to the process that reports what this worker has left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[left_out])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what ran here, and what did not and why."""
    versions = {name: metadata.version(name) for name in _VERSIONS if util.find_spec(name)}
    stats: dict[str, list[Any]] = terminalreporter.stats
    counts = {kind: len(stats.get(kind, ())) for kind in ("passed", "failed", "error", "skipped")}
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in stats.get("skipped", ()))
    shown = ", ".join(f"{name} {versions.get(name, 'missing')}" for name in _VERSIONS)
    terminalreporter.write_line(f"with Python {platform.python_version()}, {shown}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"skipped {count}: {reason}")
    for reason, count in sorted(config.stash[left_out].items()):
        terminalreporter.write_line(f"left out {count}, which {reason}")
    if config.option.summary_json:
        record = {
            "python": platform.python_version(),
            "versions": versions,
            "counts": counts,
            "failures": sorted(report.nodeid for kind in ("failed", "error") for report in stats.get(kind, ())),
            "skipped": dict(reasons),
            "left_out": dict(config.stash[left_out]),
        }
        Path(config.option.summary_json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
