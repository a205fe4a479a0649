"""What a notebook shows of a cache's usage, a profile and an evaluation."""

from __future__ import annotations

from html.parser import HTMLParser

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.evaluation.figures import Figures
from prefixkv.html_table import html_table
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.profiles.profile import LayerProfile, average_curve


class _Cells(HTMLParser):
    """Collects the texts of a table, and fails where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption, self._open = "", list[str]()
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def test_what_is_shown_is_text_and_no_markup() -> None:
    html = html_table("<b>x</b>", ("a", "<script>"), [("&", "1 < 2")])
    assert "<script>" not in html
    assert "<b>" not in html
    read = _Cells(html)
    assert (read.caption, read.rows) == ("<b>x</b>", [["a", "<script>"], ["&", "1 < 2"]])


def test_usage_says_tokens_and_bytes() -> None:
    usage = CacheUsage.of((LayerUsage(0, 1000, 250, 2048), LayerUsage(1, 0, 0, 0)), 16000, 4096, 16.0, "plain")
    read = _Cells(usage._repr_html_())
    assert read.caption == "kept 25.0% of the tokens · plain, 16 bits · 2 KiB of 15.63 KiB (12.8%)"
    assert read.rows[1] == ["0", "250", "1,000", "25%", "2 KiB"]
    assert read.rows[2] == ["1", "0", "0", "100%", "0 B"]


def test_cache_is_shown_by_its_usage() -> None:
    cache = PrefixKVCache(KVGeometry(2, 2, 16, "float32"), "20%")
    assert cache._repr_html_() == cache.usage()._repr_html_()
    assert [row[0] for row in _Cells(cache._repr_html_()).rows[1:]] == ["0", "1"]


def test_best_cell_stands_out_and_is_text_too() -> None:
    assert html_table("", ("a",), [("<i>",), ("b",)], {(0, 0)}).count("<b>&lt;i&gt;</b>") == 1


def test_profile_says_how_concentrated_layers_are() -> None:
    model = ModelIdentity("some/<model>", None, KVGeometry(2, 2, 16, "float32"), "0123456789abcdef")
    curves = tuple(average_curve([curve]) for curve in ([0.5, 0.8, 0.95, 1.0], [0.25, 0.5, 0.75, 1.0]))
    profile = LayerProfile(model, "accumulated", "by hand", ({"prompt_tokens": 4},), curves, "a test")
    read = _Cells(profile._repr_html_())
    assert read.caption == "some/<model>: 1 sample (by hand), scored by accumulated"
    assert len(read.rows) == 3
    assert read.rows[2][2] == f"{curves[1].entries_for(0.5):.1%}"


def test_evaluation_says_each_cell_once() -> None:
    metrics = {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}}
    cell = {
        "method": "h2o",
        "budget": "20%",
        "shared_with_full": False,
        "kept_tokens_fraction": 0.4,
        "bytes_fraction": 0.2,
        "bits": 8.0,
        "kept_bytes": 2048.0,
    }
    figures = Figures(samples=4, cells=[{**cell, "metrics": metrics}, {**cell, "shared_with_full": True}])
    read = _Cells(figures._repr_html_())
    assert read.rows == [
        ["method", "budget", "tokens kept", "bits", "of the bytes", "bytes", "exact"],
        ["h2o", "20%", "40.0%", "8", "20.0%", "2 KiB", "0.5 [0.25, 0.75]"],
    ]
