"""The table of cache usage."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.chat.entry_kinds import EntryKinds
from prefixkv_cli.dialogue.talk import Talk
from prefixkv_cli.tables.usage_table import usage_line, usage_table

USAGE = CacheUsage(
    full_bytes=4 * 2**20,
    kept_bytes=2**20,
    allocated_bytes=2**20,
    kept_tokens_fraction=0.5,
    bytes_fraction=0.25,
    bits=8.0,
    codec="int8",
    layers=tuple(LayerUsage(layer, 2000, 300 + layer, 2**20 - 11 if layer == 8 else 2**15) for layer in range(33)),
)
KINDS = [EntryKinds(200 + layer, 60, 40) for layer in range(33)]


@pytest.mark.parametrize("width", [60, 120])
def test_every_layer_is_one_line_of_the_table(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(usage_table(USAGE, 12.5, KINDS))
    lines = console.export_text().splitlines()
    assert lines[0].split() == ["layer", "kept", "/", "seen", "kept", "bytes", "picture", "text", "written"]
    rows = [line.split() for line in lines[1:34]]
    assert rows[7] == ["7", "307", "/", "2000", "15%", "32", "KiB", "207", "60", "40"]
    assert rows[8][5:7] == ["1023.99", "KiB"]
    assert [row[0] for row in rows] == [str(layer) for layer in range(33)]


def test_kinds_are_left_out_where_they_are_not_known() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(usage_table(USAGE))
    assert "picture" not in console.export_text()


def test_totals_say_what_is_kept_and_allocated() -> None:
    assert usage_line(USAGE, 12.5) == (
        "kept 50.0% of the tokens · int8, 8 bits · 1 MiB of 4 MiB (25.0%) · allocated 1 MiB · 12.5 tokens/s"
    )
    assert "tokens/s" not in usage_line(USAGE)


def test_empty_cache_has_totals_only() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(usage_table(CacheUsage(0, 0, 0, 1.0, 1.0, 16.0, "plain", ())))
    last = console.export_text().splitlines()[-1].strip()
    assert last == "kept 100.0% of the tokens · plain, 16 bits · 0 B of 0 B (100.0%) · allocated 0 B"


def test_before_the_first_question_there_is_no_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = (LayerUsage(0, 0, 0, 0), LayerUsage(1, 0, 0, 0))
    report = SimpleNamespace(usage=CacheUsage.of(layers, 0, 0, 16, "auto"))
    monkeypatch.setattr("prefixkv_cli.dialogue.talk.CacheReport", SimpleNamespace(of=lambda conversation: report))
    Talk.show_layers(cast(Any, SimpleNamespace(conversation=None)))
    assert capsys.readouterr().err == "note: nothing has been read yet: ask a question first\n"
