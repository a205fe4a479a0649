"""Which files the engine's digest covers, seen by changing a copy of the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import prefixkv
from prefixkv.evaluation.engine import engine_digest


@pytest.mark.parametrize(
    ("changed", "matters"),
    [
        ("cache/layer.py", True),
        ("policy/selection.py", True),
        ("policy/allocation.py", True),
        ("kernels/packing.py", True),
        ("policy/methods.py", False),
        ("chat/conversation.py", False),
        ("evaluation/data.py", False),
    ],
)
def test_digest_changes_with_what_decides(
    changed: str, matters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Path(prefixkv.__file__).parent
    copy = tmp_path / "prefixkv"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("demo", "__pycache__"))
    monkeypatch.setattr(prefixkv, "__file__", str(copy / "__init__.py"))
    before = engine_digest()
    file = copy / changed
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    assert (engine_digest() != before) is matters
