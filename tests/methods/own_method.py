"""The method that the guide tells how to write, as an installed package."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import ROOT, blocks

NAME = "short-keys"


def install(folder: Path, entry_point: str | None = None) -> None:
    """Write the guide's package into a folder of the path as an installer would.

    Args:
        folder: of the path.
        entry_point: instead of the guide's.
    """
    files = {block.title: block.text for block in blocks(ROOT / "docs" / "guides" / "own-method.md") if block.title}
    (folder / "short_keys.py").write_text(files["short_keys.py"], encoding="utf-8")
    group, points = re.search(r'\[project\.entry-points\."([\w.]+)"\]\n(.+)', files["pyproject.toml"]).groups()  # type: ignore[union-attr]
    about = folder / "short_keys-1.0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: short-keys\nVersion: 1.0\n", encoding="utf-8")
    points = entry_point or points.replace('"', "")
    (about / "entry_points.txt").write_text(f"[{group}]\n{points}\n", encoding="utf-8")
