"""From records to figures: every cell's quality with its interval, and what its cache really held."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from prefixkv.evaluation.bootstrap import Bootstrap, estimate
from prefixkv.evaluation.cells import REFERENCE, Cell, is_full
from prefixkv.evaluation.figures import Figures
from prefixkv.evaluation.records import KIND, VERSION, Key, Record
from prefixkv.evaluation.standing import standings
from prefixkv.methods.table import get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget

DEVIATION = 0.01
"""A measured share may differ from the asked one by this part of it, and by one entry a layer, before it is marked."""

LARGEST_LOSS = 700.0
"""Mean loss in nats above which exp would leave the range of a float."""


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, LARGEST_LOSS))


_METRICS = {
    # figure: part, whole, what the ratio of their sums becomes
    "perplexity": ("loss", "tokens", _perplexity),
    "kl_nats": ("kl", "kl_tokens", float),
    "rouge_l": ("rouge_l", None, float),
    "accuracy": ("exact", None, float),
    "relaxed_accuracy": ("relaxed", None, float),
}
"""Every figure is a ratio of two sums over the samples; a whole of None counts the samples that have the part."""

NOT_EVICTING, OFF_BUDGET = "nothing was evicted", "off the budget"


def results(
    cells: Sequence[Cell],
    records: Mapping[Key, Record],
    samples: int,
    kinds: Sequence[str | None],
    settings: Mapping[str, Any],
    geometry: KVGeometry,
) -> Figures:
    """The figures of all cells.

    Args:
        cells: in the order in which they are to be reported.
        records: of every sample in the reference and in every cell that evicts.
        samples: how many.
        kinds: each sample's kind of question; empty for text.
        settings: all that the figures depend on.
        geometry: the model's KV shape.

    Returns:
        Plain values for JSON, without anything that differs between two runs of the same work.
    """
    bootstrap = Bootstrap(samples)
    full = [records[index, REFERENCE] for index in range(samples)]
    reported: list[dict[str, Any]] = []
    drawn: list[dict[str, Any]] = []
    for cell in cells if REFERENCE in cells else [REFERENCE, *cells]:
        own = full if is_full(cell) else [records[index, cell] for index in range(samples)]
        drawn.append(_drawn(bootstrap, own))
        reported.append(
            {
                "method": cell.method,
                "budget": cell.budget,
                "codec": cell.codec,
                "shared_with_full": is_full(cell) and cell != REFERENCE,
                **_weighed(cell, own, geometry),
                "metrics": _figures(drawn[-1], _drawn(bootstrap, full)),
                "kinds": _by_kind(own, kinds),
            }
        )
    _stand(reported, drawn)
    return Figures(
        format=KIND,
        version=VERSION,
        settings=dict(settings),
        samples=samples,
        single_token_share=sum(record.get("tokens") == 1 for record in full) / samples,
        cells=reported,
    )


def _weighed(cell: Cell, own: Sequence[Record], geometry: KVGeometry) -> dict[str, Any]:
    """What the cache held, as a mean over the decode and then over the samples, and what is odd about it."""
    names = ("kept_bytes", "full_bytes", "seen_tokens", "kept_tokens_fraction", "bits")
    kept, whole, seen, tokens, bits = (math.fsum(record[name] for record in own) / len(own) for name in names)
    asked, measured = cell.asked_fraction(geometry, seen), kept / whole
    marks = []
    if not is_full(cell):
        if not get_method(cell.method).keeps_all and not all(record["evicts"] for record in own):
            marks.append(NOT_EVICTING)
        is_hard = Budget.parse(cell.budget).is_hard_limit
        # A hard limit may be left unused, never exceeded.
        if measured > asked * (1 + DEVIATION) + 1 / seen or (
            measured < asked * (1 - DEVIATION) - 1 / seen and not is_hard
        ):
            marks.append(OFF_BUDGET)
    return {
        "kept_bytes": kept,
        "full_bytes": whole,
        "kept_tokens_fraction": tokens,
        "bytes_fraction": measured,
        "asked_fraction": asked,
        "bits": bits,
        "marks": marks,
    }


def _stand(reported: Sequence[dict[str, Any]], drawn: Sequence[Mapping[str, Any]]) -> None:
    """Say of each figure how it stands among those at its budget, where there are several that were measured."""
    blocks: dict[str, list[int]] = defaultdict(list)
    for index, cell in enumerate(reported):
        if not cell["shared_with_full"]:
            blocks[cell["budget"]].append(index)
    for block in blocks.values():
        for name in _METRICS:
            indices = [index for index in block if name in drawn[index]]
            if len(indices) > 1:
                found = standings(name, [drawn[index][name] for index in indices])
                for index, standing in zip(indices, found, strict=True):
                    reported[index]["metrics"][name]["standing"] = standing


def _drawn(bootstrap: Bootstrap, records: Sequence[Record]) -> dict[str, Any]:
    """Each metric that there is: its value, and that of every resample."""
    found = {name: _ratio(bootstrap, records, *sums) for name, sums in _METRICS.items()}
    return {name: measured for name, measured in found.items() if measured is not None}


def _figures(own: Mapping[str, Any], full: Mapping[str, Any]) -> dict[str, Any]:
    """Each metric's value, interval and change against the full cache in pairs."""
    figures: dict[str, Any] = {}
    for name, measured in own.items():
        if name not in full:
            continue
        reference = full[name]
        # Perplexities are compared as a ratio, all else as a difference.
        change = (
            (measured[0] / reference[0] - 1, measured[1] / reference[1] - 1)
            if name == "perplexity"
            else (measured[0] - reference[0], measured[1] - reference[1])
        )
        figures[name] = {**estimate(*measured).as_dict(), "change": estimate(*change).as_dict()}
    return figures


def _ratio(bootstrap: Bootstrap, records: Sequence[Record], part: str, whole: str | None, finish: Any) -> Any:
    parts = [float(record.get(part, 0.0)) for record in records]
    wholes = [float(record.get(whole, 0.0)) if whole else float(part in record) for record in records]
    return bootstrap.ratio(parts, wholes, finish)


def _by_kind(own: Sequence[Record], kinds: Sequence[str | None]) -> dict[str, Any]:
    """Exact-match accuracy for every kind of question, in the order in which kinds first come."""
    right: dict[str, list[bool]] = defaultdict(list)
    for record, kind in zip(own, kinds, strict=False):
        if kind is not None and "exact" in record:
            right[kind].append(record["exact"])
    return {kind: {"samples": len(hits), "accuracy": sum(hits) / len(hits)} for kind, hits in right.items()}
