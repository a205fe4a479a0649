"""The table of families in docs/families.md: `python -m tests.families.table` runs every check and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefixkv.models import families as listed
from tests.families.all_families import FAMILIES
from tests.families.checks import CHECKS

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- families: make families -->", "<!-- /families -->"


def block(passed: Mapping[str, Mapping[str, bool]]) -> str:
    """The table with its marks.

    Args:
        passed: for every family, which of the checks it has passed.
    """
    lines = [f"| family | special | {' | '.join(CHECKS)} |", f"|---|---|{'---|' * len(CHECKS)}"]
    for family in listed.FAMILIES:
        cells = " | ".join("yes" if passed[family.name][check] else "**no**" for check in CHECKS)
        lines.append(f"| {family.name} | {family.special or ''} | {cells} |")
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    """Run the checks and put the table into the page."""
    passed: dict[str, dict[str, bool]] = {}
    for name, build in FAMILIES.items():
        passed[name] = {}
        for title, check in CHECKS.items():
            try:
                check(build())
            except AssertionError:
                passed[name][title] = False
            else:
                passed[name][title] = True
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + block(passed) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
