"""Build the wheel twice from copies of the sources: the same bytes, and nothing in it that is not to be installed.

`python -m tools.wheel_check FOLDER` leaves it there. Needs pip, and its registry for setuptools.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("prefixkv", "prefixkv_cli", "pyproject.toml", "README.md", "LICENSE")
EPOCH = "1700000000"
"""A wheel's files are dated; with this one the bytes do not depend on when they were checked out."""
SUFFIXES = {"prefixkv": (".py", ".jinja", ".json", ".png", ".safetensors"), "prefixkv_cli": (".py",)}


def build(folder: Path) -> Path:
    """Build the wheel from a copy of the sources.

    Args:
        folder: for the wheel.
    """
    with tempfile.TemporaryDirectory() as name:
        for source in SOURCES:
            path, copy = ROOT / source, Path(name) / source
            if path.is_dir():
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, copy)
        words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), name]
        subprocess.run(words, check=True, env=os.environ | {"SOURCE_DATE_EPOCH": EPOCH})
    (wheel,) = folder.glob("*.whl")
    return wheel


def stray(wheel: Path) -> Iterator[str]:
    """Files of a wheel that it should not have, and sources that it lacks."""
    found = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT).as_posix())
        for package, suffixes in SUFFIXES.items()
        for path in (ROOT / package).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }
    yield from sorted(f"{name} is in it" for name in found - expected if ".dist-info/" not in name)
    yield from sorted(f"{name} is not in it" for name in expected - found)


def main(folder: Path) -> int:
    """Build twice and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    first, second = (build(folder / name) for name in ("first", "second"))
    faults = [*stray(first), *(["two builds differ"] if first.read_bytes() != second.read_bytes() else [])]
    print(*faults, sep="\n") if faults else print(f"{first}: {first.stat().st_size:,} bytes, built twice the same")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
