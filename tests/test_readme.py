"""The README is short and does what it says; the source map names files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefixkv.demo.documents.document import draw_document
from prefixkv.demo.documents.receipt import Receipt
from tests.docs.pages import blocks, follow
from tools.demo.side_by_side import CACHES, RECEIPT_SEED, ask, markdown

README = Path(__file__).parents[1] / "README.md"
FIRST_SCREEN = 40
"""Lines of a page that are seen before anybody scrolls."""


@pytest.mark.exhaustive
def test_it_can_be_followed(tmp_path: Path) -> None:
    """From top to bottom, and without a warning of what is to go."""
    answer, kept = follow(README, tmp_path).splitlines()
    assert answer.isdigit()
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", kept)]
    assert 0.15 < numbers[0] / numbers[1] <= 0.2


def test_it_is_short_and_its_first_screen_needs_nothing() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "<!-- needs" not in "\n".join(lines[:FIRST_SCREEN])
    assert [line for line in lines[:FIRST_SCREEN] if line.startswith("$ prefixkv chat")]
    assert {"pip", "pipx", "uv"} <= {
        line.split("|")[1].strip() for line in lines[:FIRST_SCREEN] if line.startswith("| ")
    }


@pytest.mark.exhaustive
def test_it_shows_what_the_demo_says_side_by_side() -> None:
    """What a published method loses may differ between versions of torch; that it loses something does not."""
    text = README.read_text(encoding="utf-8")
    told = ask()
    rows = [row.split(" | ") for row in markdown(told).splitlines()[2:]]
    assert [len(row) for row in rows] == [1 + len(CACHES)] * 2
    full, ours, theirs = told
    assert all(map(all, full.right))
    assert ours.answers == full.answers
    content = draw_document(RECEIPT_SEED, "receipt").content
    assert isinstance(content, Receipt)
    assert full.answers == [[content.total], content.sheet.text.split("\n")]
    assert [row for row in rows if " | ".join(row[:3]) not in text] == []
    assert not all(map(all, theirs.right))
    assert f"demo-scene receipt.png --kind receipt --seed {RECEIPT_SEED}" in text


def test_its_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(targets) > 10
    assert [target for target in targets if "://" not in target and not (README.parent / target).exists()] == []


def test_it_marks_what_needs_more_than_this_machine() -> None:
    assert {block.mark for block in blocks(README)} == {None, "needs-network", "needs-gpu"}


def test_file_map_names_files_that_exist() -> None:
    root = Path(__file__).parents[1]
    _, start, rest = (root / "docs" / "architecture.md").read_text(encoding="utf-8").partition("\nprefixkv/ ")
    assert start
    part, named = "", []
    for line in rest.partition("\nprefixkv_cli/")[0].splitlines():
        if entry := re.match(r"  (\w+)(/|\.py)", line):
            part = entry[1] if entry[2] == "/" else ""
            assert not part or (root / "prefixkv" / part).is_dir(), line
        named += [(part, name) for name in re.findall(r"(\w+\.py)", line)]
    assert len(named) > 30
    assert [file for file in named if not any((root / "prefixkv" / file[0]).rglob(file[1]))] == []
