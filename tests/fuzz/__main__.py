"""Run every kind of random input for its share of the time, and write what came of it.

`python -m tests.fuzz RESULT [SECONDS [SEED]]`; ends with 1 where anything unexpected happened.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers

import prefixkv
from prefixkv.documents import write_json
from tests.families import tiny_models
from tests.fuzz.contexts import mutated_contexts
from tests.fuzz.conversations import random_conversations
from tests.fuzz.documents import mutated_files
from tests.fuzz.pictures import mutated_pictures
from tests.fuzz.programs import random_programs
from tests.fuzz.tally import Tally

SHARES = {"files": 0.22, "contexts": 0.1, "pictures": 0.08, "programs": 0.3, "conversations": 0.3}
ROUND_SECONDS = 60.0
"""After so many the shares begin again, and the counts so far are written."""
MOST_CASE_SECONDS, MOST_CASE_MIB = 10.0, 150.0


def main(result: Path, seconds: float, seed: int) -> int:
    """Fuzz for so many seconds."""
    torch.manual_seed(seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = _cases(folder, seed)
        # What every kind loads once is no case's memory.
        for kind in SHARES:
            with _without_noise():
                Tally().watch(next(cases[kind]))
        tallies = {kind: Tally() for kind in SHARES}
        while (left := seconds - (time.monotonic() - began)) > 0:
            for kind, share in SHARES.items():
                until = time.monotonic() + share * min(left, ROUND_SECONDS)
                with _without_noise():
                    while time.monotonic() < until:
                        tallies[kind].watch(next(cases[kind]))
            _write(result, tallies, seed, time.monotonic() - began)
    unexpected = sum(tally.unexpected.total() for tally in tallies.values())
    slow = [k for k, tally in tallies.items() if tally.slowest_seconds > MOST_CASE_SECONDS]
    large = [k for k, tally in tallies.items() if tally.most_bytes > MOST_CASE_MIB * 2**20]
    for kind, tally in tallies.items():
        print(f"{kind:14} {tally.cases:9,} cases, {tally.refused:9,} refused, {tally.unexpected.total()} unexpected")
        for what, count in tally.unexpected.most_common():
            print(f"  {count} x {what}")
    print(f"over {MOST_CASE_SECONDS:g} s: {slow or 'none'}; over {MOST_CASE_MIB:g} MiB: {large or 'none'}")
    return 1 if unexpected or slow or large else 0


def _cases(folder: Path, seed: int) -> dict[str, Iterator[Callable[[], Any]]]:
    tiny = tiny_models.llava()
    return {
        "files": mutated_files(folder, Random(f"{seed} files")),
        "contexts": mutated_contexts(folder, tiny, Random(f"{seed} contexts")),
        "pictures": mutated_pictures(folder, Random(f"{seed} pictures")),
        "programs": random_programs(Random(f"{seed} programs")),
        "conversations": random_conversations(tiny, Random(f"{seed} conversations")),
    }


def _write(result: Path, tallies: dict[str, Tally], seed: int, seconds: float) -> None:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "prefixkv": prefixkv.__version__}
    kinds = {kind: tally.as_dict() for kind, tally in tallies.items()}
    write_json(result, {"runs": [{"seed": seed, "seconds": round(seconds), "versions": versions, "kinds": kinds}]})


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Hide what C libraries say of broken pictures on descriptor 2."""
    sys.stderr.flush()
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nothing)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    place = Path(arguments[0])
    code = main(place, float(arguments[1]) if arguments[1:] else 60.0, int(arguments[2]) if arguments[2:] else 0)
    print(json.dumps(json.loads(place.read_text())["runs"], indent=1) if code else f"written to {place}")
    sys.exit(code)
