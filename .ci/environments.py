"""Runs the checks in named environments; says what ran, what passed, what was skipped and why, and how long it took.

A   the newest torch with its Triton: `make test`, and every kernel compiled ahead of time
B   a torch without Triton: ruff, mypy, `make sbom`, `make demo`, `make site`, pages of results in a browser, a minute
    of `make fuzz`, and what `make test-all` has beyond `make test` but for the commands, of each test six cases at most
C   the lowest Triton that is taken: its interpreter runs the kernels' tests of `make test`; their further cases, which
    take the better part of an hour there, are those of `make test-gpu`
D   the lower bounds of pyproject.toml on the lowest Python: `make test` of what most depends on libraries (cache, saved
    contexts, families, models, profiles) and of four commands

One part that fails does not hide the next. An environment is installed while the one before it is in use. Only Python,
make and pip's registry are needed. Arguments choose environments: `.ci/run A C`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(".venv-ci")
WITHOUT_TRITON = "torch==2.13.0"
LOWEST_TRITON = "triton==3.6.0 numpy==2.3.5"
"""Triton 3.6 interprets kernels by a conversion that numpy 2.4 refuses."""
MINORS = range(10, 15)
PART_SECONDS = 1500
SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what runs in it.

    Attributes:
        title: what it stands for.
        folder: of the virtual environment; the last one's may be used again, with other packages.
        variables: of make, which choose what is installed.
        parts: arguments of make by the part's name; a part whose target begins with `test` tells its counts.
    """

    title: str
    folder: str
    variables: tuple[str, ...]
    parts: dict[str, tuple[str, ...]]

    def make(self, *arguments: str) -> list[str]:
        """The command line of make with these arguments, in this environment."""
        return ["make", "--no-print-directory", f"VENV={HOME / self.folder}", *self.variables, *arguments]


@dataclass
class Outcome:
    """How a part ended.

    Attributes:
        counts: tests that passed, failed and were skipped; a part that is no test counts as one.
        notes: versions, failures, and reasons of what did not run.
    """

    environment: str
    part: str
    counts: Counter[str]
    seconds: float
    notes: list[str] = field(default_factory=list)


def lower_bounds() -> str:
    """Every requirement of pyproject.toml at its lower bound; what these require in turn is pip's choice."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.findall(r'^    "([A-Za-z0-9_-]+)>=([0-9.]+)[",;]', text, re.MULTILINE)
    return " ".join(f"{name}=={version}" for name, version in listed)


def interpreters() -> dict[int, str]:
    """The Pythons of this machine, from PATH and from pyenv, by their minor version."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for minor in MINORS:
        name = f"python3.{minor}"
        for python in (name, *map(str, sorted(kept.glob(f"3.{minor}.*/bin/{name}")))):
            try:
                works = subprocess.run((python, "-c", "import venv"), capture_output=True, check=False).returncode == 0
            except OSError:
                works = False
            if works:
                found.setdefault(minor, python)
    return found


def lowest_python(found: dict[int, str]) -> str:
    """The lowest that is supported; uv's own where this machine has none; else the lowest that this machine has."""
    if MINORS[0] in found:
        return found[MINORS[0]]
    tools = ROOT / HOME / "uv" / "bin"
    for words in (
        (sys.executable, "-m", "venv", str(tools.parent)),
        (str(tools / "pip"), "install", "--quiet", "--disable-pip-version-check", "uv"),
        (str(tools / "uv"), "python", "install", "--quiet", f"3.{MINORS[0]}"),
        (str(tools / "uv"), "python", "find", "--managed-python", f"3.{MINORS[0]}"),
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            return found[min(found)] if found else sys.executable
    return done.stdout.strip()


def environments() -> dict[str, Environment]:
    """All of them by name, in the order in which they run."""
    kernels, compiled = "tests/kernels", "tests/kernels/test_ahead_of_time.py"
    parts = " ".join(f"tests/{part}" for part in ("cache", "chat/test_context.py", "families", "models", "profiles"))
    engine = f"tests/test_compression.py tests/test_documents.py tests/test_library_page.py {parts}"
    commands = " ".join(f"tests/cli/test_{name}.py" for name in ("batch", "chat", "eval", "help"))
    pages = ("tests/docs", "tests/test_readme.py", "tests/test_library_page.py")
    # The commands' exhaustive tests start many programs: a quarter of an hour by themselves, left to `make test-all`.
    others = (kernels, *pages, "tests/cli")
    found = interpreters()
    pythons = " ".join(found.values())
    return {
        "A": Environment(
            "newest torch with its Triton",
            "newest",
            ("TORCH=torch",),
            {"make test": ("test",), "kernels ahead of time": ("test", f"ARGS=--rest {compiled}")},
        ),
        "B": Environment(
            "a torch without Triton",
            "without-triton",
            (f"TORCH={WITHOUT_TRITON}",),
            {
                "make lint": ("lint",),
                "make sbom": ("sbom",),
                "make demo": ("demo",),
                "make fuzz": ("fuzz", "FUZZ_SECONDS=60"),
                "make site": ("site",),
                "reports in a browser": ("test-browser",),
                "pages, README and notebook": ("test", f"ARGS=--rest {' '.join(pages)}"),
                "more of make test-all": (
                    "test",
                    f"ARGS=--rest --cases 6 {' '.join(f'--ignore {part}' for part in others)}",
                ),
                "plain kernels": ("test", f"ARGS={kernels}"),
            },
        ),
        "C": Environment(
            "the lowest Triton, interpreted",
            "without-triton",
            (f"TORCH={WITHOUT_TRITON} {LOWEST_TRITON}",),
            {"kernels": ("test", f"ARGS={kernels}")},
        ),
        "D": Environment(
            "lower bounds on the lowest Python",
            "lowest",
            (f"TORCH={lower_bounds()}", "TRANSFORMERS=", f"PYTHON={lowest_python(found)}"),
            {
                "make test, in part": ("test", f"ARGS={engine} {commands}"),
                "syntax on every Python here": ("compile", f"PYTHONS={pythons}"),
            },
        ),
    }


def run_part(name: str, part: str, environment: Environment) -> Outcome:
    """Run one part to its end, showing what it prints."""
    print(f"\n--- {name}, {environment.title}: {part}", flush=True)
    told = ROOT / HOME / "told.json"
    told.unlink(missing_ok=True)
    words = list(environment.parts[part])
    tests = words[0].startswith("test")
    if tests:
        rest = words.pop().removeprefix("ARGS=") if len(words) > 1 else ""
        words.append(f"ARGS={rest} --summary-json {told}")
    started = time.monotonic()
    process = subprocess.Popen(environment.make(*words), cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(timeout=PART_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    outcome = Outcome(name, part, Counter(), time.monotonic() - started)
    if tests and told.exists():
        _read_summary(json.loads(told.read_text(encoding="utf-8")), outcome)
    elif not code:
        outcome.counts["passed"] = 1
    if code and not outcome.counts["failed"]:
        outcome.counts["failed"] = 1
        outcome.notes.append(f"ended with code {code}")
    return outcome


def _read_summary(told: dict, outcome: Outcome) -> None:
    """What pytest said by `--summary-json`; an error of a fixture or of collection is a failure."""
    counts = told["counts"]
    outcome.counts.update(passed=counts["passed"], failed=counts["failed"] + counts["error"], skipped=counts["skipped"])
    outcome.notes.append(", ".join([f"Python {told['python']}", *(f"{k} {v}" for k, v in told["versions"].items())]))
    outcome.notes += [f"failed: {name}" for name in told["failures"][:SHOWN_FAILURES]]
    outcome.notes += [f"skipped {count}: {reason}" for reason, count in sorted(told["skipped"].items())]
    outcome.notes += [f"left out {count}, which {reason}" for reason, count in sorted(told["left_out"].items())]


def install(name: str, environment: Environment) -> Outcome:
    """Make an environment; what is printed is shown only if it fails."""
    started = time.monotonic()
    words = environment.make("install")
    done = subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    outcome = Outcome(name, "installation", Counter(), time.monotonic() - started)
    if done.returncode:
        outcome.counts["failed"] = 1
        outcome.notes = [*done.stdout.splitlines()[-5:], *done.stderr.splitlines()[-15:]]
    return outcome


def report(outcomes: list[Outcome], chosen: dict[str, Environment], seconds: float) -> Counter[str]:
    """Print the summary; its last line has the totals of all environments."""
    print(f"\n{'':2} {'part':30} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for outcome in outcomes:
        numbers = [outcome.counts[kind] for kind in ("passed", "failed", "skipped")]
        print(f"{outcome.environment:2} {outcome.part:30} {numbers[0]:7} {numbers[1]:7} {numbers[2]:8} ", end="")
        print(f"{outcome.seconds:8.0f}")
    for name, environment in chosen.items():
        print(f"\n{name}: {environment.title}")
        for outcome in outcomes:
            if outcome.environment == name and outcome.notes:
                print(f"  {outcome.part}", *outcome.notes, sep="\n    ")
    total = sum((outcome.counts for outcome in outcomes), Counter[str]())
    print(f"\n{', '.join(chosen)} in {seconds / 60:.1f} minutes")
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    print(f"{total['passed']} passed, {total['failed']} failed{skipped}", flush=True)
    return total


def main(names: list[str]) -> int:
    """Run the environments of these names, or all."""
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    (ROOT / HOME).mkdir(exist_ok=True)
    started, known = time.monotonic(), environments()
    chosen = {name: environment for name, environment in known.items() if not names or name in names}
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(1) as installer:
        pending: dict[str, Future[Outcome]] = {}
        for name, environment in chosen.items():
            # One that goes on in the folder of another waits until that one is done.
            if environment.folder not in {known[other].folder for other in pending}:
                pending[name] = installer.submit(install, name, environment)
        for name, environment in chosen.items():
            installed = (pending.get(name) or installer.submit(install, name, environment)).result()
            outcomes.append(installed)
            if not installed.counts["failed"]:
                outcomes += [run_part(name, part, environment) for part in environment.parts]
    return 1 if report(outcomes, chosen, time.monotonic() - started)["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
