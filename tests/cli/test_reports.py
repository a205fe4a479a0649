"""Pages of results: whole files that may load nothing, refused before anything is measured for them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from prefixkv.errors import OptionError, PrefixKVError
from prefixkv_cli.reports.eval_page import write_evaluation
from prefixkv_cli.reports.page import check_report, write_page
from prefixkv_cli.reports.profile_page import BUDGETS
from tests.cli.program import Run
from tests.cli.test_plots import evaluation

WITHIN = "default-src 'none'"


def drawn(page: str, name: str) -> tuple[list[Any], dict[str, Any]]:
    """Traces and layout of a figure, as the page hands them to Plotly."""
    start = page.index("[", page.index(f'"{name}",', page.index("Plotly.newPlot(")))
    decoder = json.JSONDecoder()
    traces, end = decoder.raw_decode(page, start)
    return traces, decoder.raw_decode(page, page.index("{", end))[0]


def test_budgets_are_lines_with_their_intervals_and_stand_in_one_legend(tmp_path: Path) -> None:
    figures = evaluation({"20%": 0.2, "5%": 0.05})
    figures["settings"]["device"] = "cpu"
    write_evaluation(figures, tmp_path / "eval.html")
    page = (tmp_path / "eval.html").read_text(encoding="utf-8")
    traces, layout = drawn(page, "quality")
    assert WITHIN in page
    assert [trace["name"] for trace in traces if trace["showlegend"]] == ["h2o", "guided"]
    assert len(traces) == 4
    assert all(len(trace["error_y"]["arrayminus"]) == 2 for trace in traces)
    assert layout["xaxis"]["type"] == "log"
    assert layout["xaxis"]["ticktext"] == ["5", "20"]
    assert "12 samples are few" in page


def test_one_budget_is_bars_and_the_best_of_a_budget_stands_out(tmp_path: Path) -> None:
    figures = evaluation({"20%": 0.2})
    figures["settings"]["device"] = "cpu"
    figures["cells"][2]["metrics"]["accuracy"] |= {"value": 0.75}
    write_evaluation(figures, tmp_path / "eval.html")
    page = (tmp_path / "eval.html").read_text(encoding="utf-8")
    traces, _ = drawn(page, "quality")
    assert {trace["type"] for trace in traces} == {"bar"}
    assert traces[1]["y"] == ["h2o", "guided"][:: 1 if traces[1]["x"][0] < traces[1]["x"][1] else -1]
    assert re.findall(r"<b>(.*?) ", page[page.index("<table>") :]) == ["75.0"]


def test_profile_shows_its_curves_and_a_slider_over_budgets(run: Run, tmp_path: Path) -> None:
    done = run("profile", "show", "demo", "--report", str(tmp_path / "profile.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "profile.html").read_text(encoding="utf-8")
    curves, _ = drawn(page, "curves")
    assert [trace["name"] for trace in curves] == [f"layer {number}" for number in range(8)]
    assert all(trace["y"][0] == 0 and trace["y"][-1] == 100 for trace in curves)
    steps = drawn(page[page.index('id="shares"') :], "shares")[1]["sliders"][0]["steps"]
    assert [step["label"] for step in steps] == list(BUDGETS)
    means = [sum(step["args"][0]["y"][0]) / 8 for step in steps]
    assert means == pytest.approx([80, 50, 30, 20, 10, 5], rel=0.02)


def test_what_cannot_be_a_page_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"end.* in \.html"):
        check_report(tmp_path / "page.pdf")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    with pytest.raises(PrefixKVError, match=r"pip install 'prefixkv\[report\]'"):
        check_report(tmp_path / "page.html")
    check_report(None)


def test_text_in_a_page_stays_text_and_a_link_is_not_followed(tmp_path: Path) -> None:
    write_page(tmp_path / "new" / "page.html", "<b>&", [])
    assert "<title>&lt;b&gt;&amp;</title>" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    (tmp_path / "link.html").symlink_to(tmp_path / "new" / "page.html")
    with pytest.raises(PrefixKVError, match="symbolic link"):
        write_page(tmp_path / "link.html", "title", [])
