"""The table of all types in docs/families.md, and the list that `prefixkv models --all` prints, from the results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixkv.models.type_results import SOURCE
from tests.families.trial import CHECKS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "families.json"
PAGE = ROOT / "docs" / "families.md"
BEGIN, END = "<!-- types: make families -->", "<!-- /types -->"
OUTCOMES = ("runs", "refused", "stock fails", "fails")
GROUPS = {True: "pictures and text", False: "text"}


def outcome(found: Mapping[str, Any]) -> tuple[str, str]:
    """What a type does, in the words of `OUTCOMES`, and why.

    Args:
        found: of `try_type`. A refused type that stock cannot do either counts as one of those.
    """
    said, reason = str(found["outcome"]), str(found.get("reason", ""))
    if "stock" in found:
        return "stock fails", str(found["stock"])
    if said == "refused":
        return said, reason.split(": ", 1)[-1].removesuffix("; choose another model")
    return (said if said in OUTCOMES else "fails"), reason


def listed(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the package says of every type.

    Args:
        results: content of `RESULTS`.
    """
    types = {}
    for name, found in results["types"].items():
        said, reason = outcome(found)
        types[name] = {"pictures": found["pictures"], "outcome": said, "reason": reason}
    return {"transformers": results["transformers"], "types": types}


def block(results: Mapping[str, Any]) -> str:
    """The counts and the tables, with their marks.

    Args:
        results: content of `RESULTS`.
    """
    lines = [f"With transformers {results['transformers']}:", ""]
    lines += [
        f"| types for | {' | '.join(OUTCOMES)} | of those that stock runs |",
        f"|---|{'---|' * len(OUTCOMES)}---|",
    ]
    for pictures, title in GROUPS.items():
        counts = Counter(outcome(found)[0] for found in results["types"].values() if found["pictures"] is pictures)
        able = sum(counts.values()) - counts["stock fails"]
        share = f"{counts['runs'] / able:.0%}" if able else ""
        lines.append(f"| {title} | {' | '.join(str(counts[name]) for name in OUTCOMES)} | {share} |")
    for pictures, title in GROUPS.items():
        group = {name: found for name, found in results["types"].items() if found["pictures"] is pictures}
        lines += ["", f"### {title.capitalize()}", ""]
        lines += [f"| type | {' | '.join(CHECKS)} |", f"|---|{'---|' * len(CHECKS)}"]
        for name, found in group.items():
            if outcome(found)[0] in ("runs", "fails") and "checks" in found:
                cells = (_cell(found["checks"].get(check, "")) for check in CHECKS)
                lines.append(f"| {name} | {' | '.join(cells)} |")
        for said in ("refused", "stock fails", "fails"):
            reasons: dict[str, list[str]] = {}
            for name, found in group.items():
                if outcome(found)[0] == said and not (said == "fails" and "checks" in found):
                    reasons.setdefault(_short(outcome(found)[1]), []).append(name)
            lines += ["", f"{said.capitalize()}:", ""] if reasons else []
            lines += [f"* {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return "\n".join([BEGIN, *lines, END])


def _cell(said: str) -> str:
    return {"yes": "yes", "": ""}.get(said, "as stock" if said.startswith("stock") else "**no**")


def _short(reason: str) -> str:
    reason = reason.removeprefix("no small model can be made: ").replace("|", "/").replace("<", "(").replace(">", ")")
    return reason if len(reason) <= 160 else reason[:157] + "..."


def write(results: Mapping[str, Any]) -> None:
    """Write the results, the page and the package's list.

    Args:
        results: `transformers`, its version, and `types`: what `try_type` said of each.
    """
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    SOURCE.write_text(json.dumps(listed(results), indent=0) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + block(results) + rest.partition(END)[2], encoding="utf-8")
