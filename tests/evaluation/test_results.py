"""From records to figures, on numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from prefixkv.errors import OptionError
from prefixkv.evaluation.cells import REFERENCE, Cell, cells_of
from prefixkv.evaluation.results import NOT_EVICTING, OFF_BUDGET, results
from prefixkv.methods.table import METHODS
from prefixkv.models.geometry import KVGeometry

GEOMETRY = KVGeometry(layers=2, kv_heads=1, head_dim=16, dtype="float16")
CELL = Cell("h2o", "20%")


def _record(kept: float, evicts: bool = True, **more: Any) -> dict[str, Any]:
    whole = {"full_bytes": 128_000.0, "seen_tokens": 1000.0, "kept_tokens_fraction": kept / 64_000, "bits": 8.0}
    return {"kept_bytes": kept, **whole, "evicts": evicts, **more}


def _reported(cell: Cell, own: list[dict[str, Any]], full: list[dict[str, Any]], kinds: list[str]) -> dict[str, Any]:
    records = {(index, REFERENCE): record for index, record in enumerate(full)}
    records |= {(index, cell): record for index, record in enumerate(own)}
    return results([REFERENCE, cell], records, len(own), kinds, {}, GEOMETRY)["cells"][1]


def test_figures_by_hand() -> None:
    full = [
        _record(128_000, False, tokens=4, loss=0.4, exact=True, relaxed=True, rouge_l=1.0, kl=0.0, kl_tokens=5),
        _record(128_000, False, tokens=1, loss=0.6, exact=True, relaxed=True, rouge_l=1.0, kl=0.0, kl_tokens=2),
    ]
    own = [
        _record(25_600, tokens=4, loss=2.4, exact=False, relaxed=True, rouge_l=0.5, kl=1.0, kl_tokens=5),
        _record(25_600, tokens=1, loss=0.6, exact=True, relaxed=True, rouge_l=1.0, kl=0.4, kl_tokens=2),
    ]
    cell = _reported(CELL, own, full, ["describe", "count"])
    metrics = cell["metrics"]
    assert cell["bytes_fraction"] == pytest.approx(0.2)
    assert (cell["kept_tokens_fraction"], cell["bits"]) == (pytest.approx(0.4), 8.0)
    assert cell["marks"] == []
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(3.0 / 5))
    assert metrics["perplexity"]["change"]["value"] == pytest.approx(math.exp(0.6 - 0.2) - 1)
    assert metrics["kl_nats"]["value"] == pytest.approx(1.4 / 7)
    assert metrics["rouge_l"]["value"] == 0.75
    assert metrics["accuracy"]["value"] == 0.5
    assert metrics["accuracy"]["change"]["value"] == -0.5
    assert metrics["relaxed_accuracy"]["value"] == 1.0
    assert cell["kinds"] == {
        "describe": {"samples": 1, "accuracy": 0.0},
        "count": {"samples": 1, "accuracy": 1.0},
    }


@pytest.mark.parametrize(
    ("budget", "kept", "evicts", "marks"),
    [
        ("20%", 25_600, True, []),
        ("20%", 26_200, True, [OFF_BUDGET]),
        ("20%", 24_900, True, [OFF_BUDGET]),
        ("20%", 128_000, False, [NOT_EVICTING, OFF_BUDGET]),
        ("25600B", 12_800, True, []),
        ("25600B", 26_200, True, [OFF_BUDGET]),
        ("200tok", 25_600, True, []),
        ("1MiB", 128_000, False, [NOT_EVICTING]),
    ],
)
def test_what_a_cell_kept_is_held_against_what_was_asked(
    budget: str, kept: float, evicts: bool, marks: list[str]
) -> None:
    full = [_record(128_000, False, exact=True)]
    assert _reported(Cell("h2o", budget), [_record(kept, evicts, exact=True)], full, [])["marks"] == marks


def test_metric_without_samples_is_left_out_and_full_is_always_there() -> None:
    records = {(0, REFERENCE): _record(128_000, False, tokens=0, loss=0.0)}
    records[0, CELL] = _record(25_600, tokens=0, loss=0.0)
    figures = results([CELL], records, 1, [], {}, GEOMETRY)
    assert [cell["method"] for cell in figures["cells"]] == ["full", "h2o"]
    assert figures["cells"][1]["metrics"] == {}


def test_cells_are_every_method_at_every_budget_and_full_once() -> None:
    cells = cells_of("all", "100%,0.2, 20%,300tok")
    assert cells.count(REFERENCE) == 1
    assert {cell.budget for cell in cells} == {"100%", "20%", "300tok"}
    assert len(cells) == 1 + 3 * (len(METHODS) - 1)
    with pytest.raises(OptionError, match="did you mean 'h2o'"):
        cells_of("h20", "20%")
    with pytest.raises(OptionError, match="are none"):
        cells_of("h2o", " , ")
    with pytest.raises(OptionError, match="budget '2x'"):
        cells_of("h2o", "2x")
