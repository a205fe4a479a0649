"""The examples of docs/library.md run, one after the other, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


@pytest.mark.exhaustive
def test_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=os.environ | {"PYTHONWARNINGS": "error::FutureWarning"},
    )
    assert done.returncode == 0, done.stderr
    answer, kept, rows, together, _, piped, first, _ = done.stdout.splitlines()
    assert answer == together == piped == first
    assert answer.isdigit()
    assert "bytes, layer 0 keeps" in kept
    assert len(rows.strip("[]").split(",")) == 2
