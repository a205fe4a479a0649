"""Every page does what it says: its commands run as they stand; those that need more than this machine are parsed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, follow, parse, prefixkv_commands

DOCS = ROOT / "docs"
FOLLOWED = [
    *(DOCS / name for name in ("demo-model.md", "index.md", "methods.md", "tutorial.md")),
    *sorted((DOCS / "guides").glob("*.md")),
]
"""Pages that are run from top to bottom; README.md is, too, in test_readme.py."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
per_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@per_page
def test_commands_are_understood(page: Path) -> None:
    for block in blocks(page):
        for command in block.commands() if block.language == "console" else ():
            for words in prefixkv_commands(command):
                # The reference's usage lines name what may stand there.
                if "[OPTIONS]" not in words:
                    parse(words)


@per_page
def test_make_targets_exist(page: Path) -> None:
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", page.read_text(encoding="utf-8")))
    assert named <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path)
