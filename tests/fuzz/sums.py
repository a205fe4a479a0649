"""Add up the results of several runs of `python -m tests.fuzz`, which may have gone on at the same time.

`python -m tests.fuzz.sums RESULT PART...`; ends with 1 where a part has anything unexpected.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefixkv.documents import read_json, write_json

ADDED = ("cases", "taken", "refused", "unexpected")
LARGEST = ("slowest_seconds", "most_mib_above_baseline")


def summed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All runs, and the figures of each kind over all of them.

    Args:
        runs: as `tests.fuzz` writes them, each with a seed of its own.

    Raises:
        ValueError: two runs have one seed, and so the same cases.
    """
    seeds = Counter(run["seed"] for run in runs)
    if twice := [seed for seed, count in seeds.items() if count > 1]:
        raise ValueError(f"seed {twice[0]} is there more than once: its cases would be counted again")
    kinds: dict[str, Any] = {}
    for kind in runs[0]["kinds"]:
        parts = [run["kinds"][kind] for run in runs]
        unexpected: Counter[str] = sum((Counter(part["unexpected_kinds"]) for part in parts), Counter())
        kinds[kind] = {name: sum(part[name] for part in parts) for name in ADDED}
        kinds[kind] |= {name: max(part[name] for part in parts) for name in LARGEST}
        kinds[kind]["unexpected_kinds"] = dict(unexpected.most_common())
    return {"kinds": kinds, "runs": sorted(runs, key=lambda run: run["seed"])}


def main(result: Path, parts: Sequence[Path]) -> int:
    """Read the parts, write the sum, and print it."""
    found = summed([run for part in parts for run in read_json(part)["runs"]])
    write_json(result, found)
    for kind, sums in found["kinds"].items():
        print(kind, ", ".join(f"{name} {sums[name]:,}" for name in (*ADDED, *LARGEST)), sums["unexpected_kinds"] or "")
    return 1 if any(sums["unexpected"] for sums in found["kinds"].values()) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
