"""Pictures of results: every panel has something in it, nothing lies outside, one budget is drawn as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prefixkv.errors import PrefixKVError
from prefixkv_cli.plots.bench_plot import draw_benchmark
from prefixkv_cli.plots.eval_plot import draw_evaluation

# It would stand on a user's screen.
pytestmark = pytest.mark.filterwarnings("error:No artists")


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are saved, as they are then."""
    from matplotlib.figure import Figure

    saved: list[Any] = []
    save = Figure.savefig

    def keep(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def cell(method: str, budget: str, fraction: float, value: float) -> dict[str, Any]:
    metrics = {
        name: {"value": scale * value, "low": scale * value * 0.9, "high": scale * value * 1.1}
        for name, scale in (("perplexity", 4.0), ("accuracy", 0.9))
    }
    return {
        "method": method,
        "budget": budget,
        "shared_with_full": False,
        "kept_bytes": fraction * 1e6,
        "bytes_fraction": fraction,
        "asked_fraction": fraction,
        "kept_tokens_fraction": fraction,
        "bits": 16.0,
        "metrics": metrics,
        "marks": [],
    }


def evaluation(budgets: dict[str, float]) -> dict[str, Any]:
    methods = [cell(name, budget, share, 0.8) for budget, share in budgets.items() for name in ("h2o", "guided")]
    settings = {"model": {"id": "demo", "dtype": "float32"}, "data": "scenes:12"}
    return {"cells": [cell("full", "100%", 1.0, 1.0), *methods], "samples": 12, "settings": settings}


def test_one_budget_is_drawn_as_bars_with_the_methods_names(figure: list[Any], tmp_path: Path) -> None:
    draw_evaluation(evaluation({"20%": 0.2}), tmp_path / "eval.png")
    (drawn,) = figure
    assert [len(axes.patches) for axes in drawn.axes] == [2, 2]
    assert {label.get_text() for label in drawn.axes[0].get_yticklabels()} == {"h2o", "guided"}
    assert "12 samples of scenes with seed 12" in drawn.get_suptitle()
    assert "float32" in drawn.get_suptitle()


def test_several_budgets_are_lines_over_percent_of_the_full_cache_with_one_legend(
    figure: list[Any], tmp_path: Path
) -> None:
    draw_evaluation(evaluation({"20%": 0.2, "5%": 0.05}), tmp_path / "eval.png")
    (drawn,) = figure
    assert len(drawn.legends) == 1
    assert not any(axes.get_legend() for axes in drawn.axes)
    for axes in drawn.axes:
        assert axes.get_xscale() == "log"
        assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "20"]


def bench_cell(tokens: int, batch: int, peak: int | None) -> dict[str, Any]:
    return {
        "engine": "prefixkv",
        "budget": "20%",
        "method": "h2o",
        "context_tokens": tokens,
        "batch": batch,
        "failure": None,
        "prefill_ms": 30.0,
        "step_ms": 5.0 + batch,
        "prefill_peak_bytes": peak,
    }


def test_what_was_not_measured_has_no_panel(figure: list[Any], tmp_path: Path) -> None:
    cells = [bench_cell(640, 1, None), bench_cell(1280, 1, None)]
    draw_benchmark({"model": "demo", "device": "cpu", "cells": cells}, tmp_path / "bench.png")
    (drawn,) = figure
    assert [axes.get_ylabel() for axes in drawn.axes] == ["prefill (ms), one row", "decode step (ms), one row"]
    assert [label.get_text() for label in drawn.axes[0].get_xticklabels()] == ["640", "1280"]


def test_rows_have_a_panel_where_there_are_several_and_memory_where_it_is_known(
    figure: list[Any], tmp_path: Path
) -> None:
    cells = [bench_cell(640, rows, 2**30) for rows in (1, 16)]
    draw_benchmark({"model": "demo", "device": "cuda", "cells": cells}, tmp_path / "bench.png")
    assert len(figure[0].axes) == 4


def test_a_benchmark_without_a_figure_is_said(tmp_path: Path) -> None:
    with pytest.raises(PrefixKVError, match="nothing to draw"):
        draw_benchmark({"model": "demo", "device": "cpu", "cells": []}, tmp_path / "bench.png")


def test_one_load_is_drawn_as_bars_and_the_dtype_is_said(figure: list[Any], tmp_path: Path) -> None:
    cells = [bench_cell(640, 1, None), {**bench_cell(640, 1, None), "engine": "transformers"}]
    draw_benchmark({"model": "demo", "dtype": "float32", "device": "cpu", "cells": cells}, tmp_path / "bench.png")
    (drawn,) = figure
    assert [len(axes.patches) for axes in drawn.axes] == [2, 2]
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["transformers", "20% h2o"]
    assert drawn.get_suptitle() == "demo in float32 on cpu, medians"
