"""Measure the demo model's bundled profile: `python -m tools.demo.profile --out prefixkv/demo/profile.json`.

Half of its samples are drawn scenes and half drawn documents, since the model is asked about both. No evaluation draws
their seeds. Answers are taken to their ends: what evicting loses is lost late in long ones.
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path

import prefixkv
from prefixkv.profiles.calibration import document_samples, drawn_samples
from prefixkv.profiles.profile import LayerProfile

_FIRST_SEED = 910_000
_ANSWER_TOKENS = 320


def main() -> None:
    """Read the options, measure, save."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo.profile", description="Measure the demo's profile.")
    parser.add_argument("--samples", type=int, default=24, help="scenes, and as many documents")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    scenes = drawn_samples(options.samples, _FIRST_SEED)
    documents = document_samples(options.samples, _FIRST_SEED)
    last = _FIRST_SEED + options.samples - 1
    source = f"{options.samples} drawn scenes and {options.samples} drawn documents (seeds {_FIRST_SEED} to {last})"
    samples = list(chain.from_iterable(zip(scenes, documents, strict=True)))
    loaded = prefixkv.load_model("demo")
    LayerProfile.measure(loaded, samples, source, answer_tokens=_ANSWER_TOKENS, progress=print).save(options.out)


if __name__ == "__main__":
    main()
