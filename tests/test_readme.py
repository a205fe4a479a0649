"""The README's Python examples are run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_python_examples_run(tmp_path: Path) -> None:
    """One after the other, with a profile of the demo model under its name, and without a warning of what is to go."""
    root = Path(__file__).parents[1]
    (tmp_path / "profiles").mkdir()
    shutil.copy(root / "prefixkv/demo/profile.json", tmp_path / "profiles/demo.json")
    for tensors in (root / "prefixkv/demo").glob("profile-*.safetensors"):
        shutil.copy(tensors, tmp_path / "profiles")
    examples = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=os.environ | {"PREFIXKV_HOME": str(tmp_path), "PYTHONWARNINGS": "error::FutureWarning"},
    )
    assert done.returncode == 0, done.stderr
    answer, kept = done.stdout.splitlines()
    assert answer.isdigit()
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", kept)]
    assert 0.15 < numbers[0] / numbers[1] <= 0.2


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str) -> None:
    root = Path(__file__).parents[1]
    text = (root / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text))
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= named
    assert named <= set(targets)


def test_file_map_names_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    _, start, rest = (root / "README.md").read_text(encoding="utf-8").partition("\nprefixkv/ ")
    assert start
    part, named = "", []
    for line in rest.partition("\nprefixkv_cli/")[0].splitlines():
        if entry := re.match(r"  (\w+)(/|\.py)", line):
            part = entry[1] if entry[2] == "/" else ""
            assert not part or (root / "prefixkv" / part).is_dir(), line
        named += [(part, name) for name in re.findall(r"(\w+\.py)", line)]
    assert len(named) > 30
    assert [file for file in named if not any((root / "prefixkv" / file[0]).rglob(file[1]))] == []
