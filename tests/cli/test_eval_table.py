"""The figures of `prefixkv eval` on a narrow screen, as Markdown and as comma-separated values."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from rich.console import Console

from prefixkv.methods.table import METHODS
from prefixkv_cli.tables.eval_export import comma_separated, markdown
from prefixkv_cli.tables.eval_table import eval_table, remarks
from tests.cli.program import Run


def _metric(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def _cell(method: str, budget: str, number: int, relaxed: bool) -> dict[str, Any]:
    return {
        "method": method,
        "budget": budget,
        "codec": "auto",
        "shared_with_full": False,
        "kept_bytes": 970788.98 * 10**number,
        "full_bytes": 4863317.3 * 10**number,
        "kept_tokens_fraction": 0.389,
        "bytes_fraction": 0.1996,
        "bits": 8.0,
        "asked_fraction": 0.2,
        "marks": ["off the budget"] if method == "prefixkv-release" else [],
        "kinds": {},
        "metrics": {
            "perplexity": _metric(32.741 + number, 2.862, 364.6),
            "kl_nats": _metric(2.595, 0.865, 4.194),
            "rouge_l": _metric(0.773, 0.601, 0.931),
            "accuracy": _metric(0.583 - number / 100, 0.333, 0.833),
            "relaxed_accuracy": _metric(0.6 if relaxed else 0.583 - number / 100, 0.333, 0.833),
        },
    }


def figures(relaxed: bool = False, samples: int = 12, short: float = 7 / 12) -> dict[str, Any]:
    cells = [_cell(name, budget, number, relaxed) for budget in ("100%", "20%") for number, name in enumerate(METHODS)]
    model = {"id": "demo", "dtype": "float32"}
    settings = {"model": model, "device": "cpu", "data": "scenes:1"}
    return {"settings": settings, "samples": samples, "single_token_share": short, "cells": cells}


def shown(width: int, intervals: bool = False, **options: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(eval_table(figures(**options), width, intervals))
    return captured.get().splitlines()


@pytest.mark.parametrize("relaxed", [False, True])
def test_nothing_is_cut_at_80_columns(relaxed: bool) -> None:
    lines = shown(80, relaxed=relaxed)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert all(text.count(f" {name} ") == 2 for name in METHODS if name != "prefixkv-release")
    assert text.count(" prefixkv-release! ") == 2


def test_each_row_is_one_line_at_80_columns() -> None:
    lines = shown(80)
    rows = [line for line in lines if line.strip().split(" ")[0] in ("100%", "20%", *METHODS, "prefixkv-release!")]
    assert len(rows) == 2 * len(METHODS)
    assert all("±" in row for row in rows)


def test_a_wide_screen_has_bytes_and_both_ends() -> None:
    lines = shown(240, intervals=True)
    heads = next(line for line in lines if "perplexity" in line).split()
    assert heads[:6] == ["budget", "method", "bytes", "tokens", "bits", "size"]
    assert "32.741 [2.862, 364.6]" in "\n".join(lines)


def test_what_the_samples_say_nothing_about_is_said() -> None:
    few, many = " ".join(shown(240)), " ".join(shown(240, samples=200, short=0))
    assert "12 samples of scenes with seed 1" in few
    assert "58.3% of the reference answers are one token long" in few
    assert "before anything is evicted" not in few
    assert "12 samples are few" in few
    assert "one token" not in many
    assert "are few" not in many


def test_of_the_papers_way_it_is_said_what_one_token_answers_are_worth() -> None:
    told = figures()
    told["settings"]["first_token"] = "prompt"
    assert "computed before anything is evicted: they say nothing about a cache" in remarks(told)[0]


def test_markdown_is_one_table_with_intervals() -> None:
    title, empty, *rows = markdown(figures()).splitlines()
    assert (title, empty) == ("demo (float32, cpu), 12 samples of scenes with seed 1:", "")
    table = [row for row in rows if row.startswith("|")]
    assert len(table) == 2 + 2 * len(METHODS)
    assert len({row.count("|") for row in table}) == 1
    assert "| 58.3 [33.3, 83.3] |" in table[2]


def test_values_come_back_as_they_were() -> None:
    told = figures()
    rows = list(csv.DictReader(io.StringIO(comma_separated(told))))
    assert [(row["method"], row["budget"]) for row in rows] == [
        (cell["method"], cell["budget"]) for cell in told["cells"]
    ]
    for row, cell in zip(rows, told["cells"], strict=True):
        assert (row["method"], row["budget"]) == (cell["method"], cell["budget"])
        assert float(row["kept_bytes"]) == cell["kept_bytes"]
        assert float(row["accuracy_low"]) == cell["metrics"]["accuracy"]["low"]
        assert row["marks"] == "; ".join(cell["marks"])


def test_only_one_of_them_has_stdout(run: Run) -> None:
    done = run("eval", "--data", "scenes:1", "--json", "--csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--json, --markdown and --csv" in done.stderr
