"""The README from top to bottom in an empty environment: `python tools/first_use.py README.md build/first-use.json`.

Needs nothing but Python and pip: makes a virtual environment, installs torch (the third argument, as pip takes it) and
the checkout by the README's own line, and runs every block that is not marked as needing more than this machine. The
result is JSON: seconds and processor seconds of each step, which differ by what else the machine does and by what is
waited for, and the seconds from nothing to the first answer.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^(<!-- needs-[\w-]+ -->\n)?```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INSTALL = re.compile(r"^\| pip \| `python -m pip install (.+)` \|$", re.MULTILINE)
_MOST_SECONDS = 1800


def first_use(page: Path, torch: str) -> dict[str, Any]:
    """Follow a page, whose first `prefixkv chat` is the first answer.

    Args:
        page: a README with an install line for pip and blocks of commands and Python.
        torch: what pip is to install before.

    Returns:
        The steps with their seconds, and `first_answer_seconds` since the environment was begun.

    Raises:
        SystemExit: a step fails; what it printed is on stderr.
    """
    text = page.read_text(encoding="utf-8")
    wanted = _INSTALL.search(text)
    if wanted is None:
        sys.exit(f"{page} has no install line for pip")
    steps: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(("PYTHON", "PREFIXKV_", "VIRTUAL_ENV"))
        }
        environment |= {
            "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}",
            "PREFIXKV_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
        }
        started = time.perf_counter()
        first_answer = None

        def run(said: str, words: list[str], where: Path) -> None:
            nonlocal first_answer
            began, used = time.perf_counter(), _processor_seconds()
            done = subprocess.run(
                words,
                cwd=where,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_MOST_SECONDS,
                check=False,
            )
            if done.returncode:
                sys.exit(f"{said}\n{done.stdout}\n{done.stderr}")
            seconds, used = time.perf_counter() - began, _processor_seconds() - used
            steps.append({"step": said, "seconds": round(seconds, 1), "processor_seconds": round(used, 1)})
            print(f"{steps[-1]['seconds']:7.1f} s  {said}", flush=True)
            if first_answer is None and "prefixkv chat" in said:
                first_answer = round(time.perf_counter() - started, 1)

        run("python -m venv", [sys.executable, "-m", "venv", str(folder / "venv")], folder)
        python = str(folder / "venv" / "bin" / "python")
        # Built from a copy: a build leaves folders behind where it runs.
        root = shutil.copytree(page.parent, folder / "checkout", ignore=_left_out, symlinks=True)
        for packages in (torch, wanted[1]):
            run(f"python -m pip install {packages}", [python, "-m", "pip", "install", "-q", *packages.split()], root)
        work = folder / "work"
        work.mkdir()
        blocks = _BLOCK.findall(text)
        commands = [block for mark, language, block in blocks if language == "console" and not mark]
        for line in "".join(commands).replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                run(line[2:], ["bash", "-c", f"set -o pipefail; {line[2:]}"], work)
        code = "\n".join(block for mark, language, block in blocks if language == "python" and not mark)
        if code:
            run("the page's Python", [python, "-c", code], work)
    return {
        "format": "prefixkv-first-use",
        "version": 2,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "torch": torch,
        "first_answer_seconds": first_answer,
        "seconds": round(sum(step["seconds"] for step in steps), 1),
        "processor_seconds": round(sum(step["processor_seconds"] for step in steps), 1),
        "steps": steps,
    }


def _processor_seconds() -> float:
    """Of this process and those that it has waited for, user and system."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What of a checkout is no part of it."""
    return {name for name in names if name.startswith((".venv", ".git", ".mypy", ".ruff")) or name in ("build", "dist")}


if __name__ == "__main__":
    result = first_use(Path(sys.argv[1]).resolve(), sys.argv[3] if len(sys.argv) > 3 else "torch")
    target = Path(sys.argv[2])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"first answer after {result['first_answer_seconds']} s; the page after {result['seconds']} s: {target}")
