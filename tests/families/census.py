"""Every type that transformers lists for text generation, with or without pictures: `python -m tests.families.census`.

Each is tried in a process of its own, which is forked after the libraries are loaded and has so long.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tests.families.page import RESULTS, write
from tests.families.trial import try_type

SECONDS = 150


def all_types() -> dict[str, bool]:
    """All types, and whether each is one of pictures and text."""
    pictures = sorted(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    text = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(pictures))
    return dict.fromkeys(pictures, True) | dict.fromkeys(text, False)


def _try(model_type: str, reads_pictures: bool, answer: Connection) -> None:
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    answer.send(try_type(model_type, reads_pictures, lambda: answer.send(None)))


def tried(model_type: str, reads_pictures: bool, seconds: float = SECONDS) -> dict[str, Any]:
    """What a type does, found by a child process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_try, args=(model_type, reads_pictures, there))
    child.start()
    there.close()
    blamed, found = "stock fails", None
    try:
        while found is None and here.poll(seconds):
            # Nothing comes when stock is done, then what was found.
            blamed, found = "crashes", here.recv()
    except EOFError:
        found = {"outcome": blamed, "reason": "the process ended"}
    if found is None:
        found = {"outcome": blamed, "reason": f"no answer after {seconds:g} s"}
    child.kill()
    child.join()
    return {"pictures": reads_pictures} | found


def main(wanted: list[str]) -> None:
    """Try the types that are named, or all, and put what they do into the file of results."""
    types = all_types()
    unknown = [name for name in wanted if name not in types]
    if unknown:
        raise SystemExit(f"transformers {transformers.__version__} lists no {', '.join(unknown)}")
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["types"] if wanted and RESULTS.is_file() else {}
    for name in wanted or types:
        known[name] = tried(name, types[name])
        print(name, known[name]["outcome"], known[name].get("reason", ""), flush=True)
        found = {name: known[name] for name in types if name in known}
        write({"transformers": transformers.__version__, "types": found})


if __name__ == "__main__":
    main(sys.argv[1:])
