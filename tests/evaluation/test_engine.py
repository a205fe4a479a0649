"""Which files the engine's digest covers, seen by changing a copy of the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import prefixkv
from prefixkv.evaluation.engine import engine_digest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's source, which the digest is taken of."""
    copy = tmp_path / "prefixkv"
    ignored = shutil.ignore_patterns("weights", "__pycache__")
    shutil.copytree(Path(prefixkv.__file__).parent, copy, ignore=ignored)
    monkeypatch.setattr(prefixkv, "__file__", str(copy / "__init__.py"))
    return copy


def test_digest_changes_with_source_files_of_every_folder(package: Path) -> None:
    """Those that are imported by name (kernels, scorers) and those of methods as much as the cache itself."""
    files = sorted(package.rglob("*.py"))
    names = {file.relative_to(package).as_posix() for file in files}
    assert {"cache/layer.py", "methods/evidence.py", "kernels/triton/curve.py", "methods/table.py"} <= names
    digests, one_of_each = [engine_digest()], {file.parent: file for file in files}
    for file in one_of_each.values():
        file.write_text(file.read_text(encoding="utf-8") + "\nCHANGED = True\n", encoding="utf-8")
        digests.append(engine_digest())
    assert len(set(digests)) == len(one_of_each) + 1 > 10


def test_digest_changes_with_a_file_s_name_and_not_with_what_is_no_source(package: Path) -> None:
    before = engine_digest()
    (package / "notes.txt").write_text("mine", encoding="utf-8")
    assert engine_digest() == before
    (package / "cache" / "layer.py").rename(package / "cache" / "layers.py")
    assert engine_digest() != before
