"""What `prefixkv eval --self-check` concludes: does compression leave a user's own answers as they are?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefixkv.models.geometry import KVGeometry

BUDGET = "20%"
"""What is checked where no budget is named."""
SAMPLES = 6
"""Questions that are asked, so that it takes about a minute where a model is loaded."""
NEW_TOKENS = 64
"""Longest answer that is compared."""
SAME_ROUGE, LIKE_ROUGE = 0.98, 0.9
"""ROUGE-L against the full cache's answers from which on these are called the same, and much the same."""
SLIGHT_KL = 0.05
"""Nats a token by which predictions may diverge where answers are called the same."""


def conclusions(figures: Mapping[str, Any], geometry: KVGeometry) -> list[str]:
    """One line for each cell that evicts or rounds, and one about the layers.

    Args:
        figures: of the evaluation, see `prefixkv.evaluation.results`.
        geometry: of the model.
    """
    lines = []
    for cell in figures["cells"]:
        if cell["method"] == "full":
            continue
        rouge, divergence = (cell["metrics"][name]["value"] for name in ("rouge_l", "kl_nats"))
        if rouge >= SAME_ROUGE and divergence <= SLIGHT_KL:
            verdict = "answers as the full cache does"
        elif rouge >= LIKE_ROUGE:
            verdict = "answers much as the full cache does"
        else:
            verdict = "answers otherwise than the full cache: give a larger budget, or measure a profile"
        lines.append(
            f"{cell['method']} at {cell['budget']} {verdict}: ROUGE-L {rouge:.2f} of 1, divergence {divergence:.3f} "
            f"nats a token, in {cell['bits']:g} bits, {cell['kept_tokens_fraction']:.0%} of the tokens kept"
        )
    return [*lines, _layers(geometry)]


def _layers(geometry: KVGeometry) -> str:
    left = [
        f"{len(places)} {kind} ({', '.join(map(str, places))})"
        for kind, places in (("with a window", geometry.window_layers), ("with a state", geometry.state_layers))
        if places
    ]
    none = f", {len(geometry.bare_layers)} have no entries of their own" if geometry.bare_layers else ""
    compressed = f"{geometry.layers} of {geometry.decoder_layers} layers are compressed"
    return f"{compressed}, left alone are {' and '.join(left) or 'none'}{none}"
