"""Records outlive a kill and are never mixed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.cells import REFERENCE, Cell
from prefixkv.evaluation.records import RecordFolder
from prefixkv.methods.table import METHODS

SETTINGS = {"model": {"id": "demo"}, "metrics": ["ppl"], "threads": 1}
CELL = Cell("h2o", "20%")


def figures(loss: float, **others: Any) -> dict[str, Any]:
    stored = {"kept_bytes": 2.0, "full_bytes": 10.0, "kept_tokens_fraction": 0.4, "bits": 8.0, "seen_tokens": 5.0}
    return {**stored, "evicts": True, "loss": loss, **others}


def test_what_is_written_is_read_and_the_first_stays(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    folder.append(0, 3, {CELL: figures(0.1 + 0.2), REFERENCE: figures(1.0)})
    folder.append(1, 3, {CELL: figures(9.0)})
    found = RecordFolder(tmp_path / "e", SETTINGS).read()
    assert found == {(3, CELL): figures(0.1 + 0.2), (3, REFERENCE): figures(1.0)}


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_half_a_line_is_left_out_and_what_follows_it_is_not(tmp_path: Path, cut: int) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    folder.append(0, 1, {CELL: figures(1.0)})
    folder.append(0, 2, {CELL: figures(2.0)})
    file = tmp_path / "e" / "records-0.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    assert set(folder.read()) <= {(1, CELL), (2, CELL)}
    folder.append(0, 3, {CELL: figures(3.0)})
    found = folder.read()
    assert (1, CELL) in found
    assert found[3, CELL] == figures(3.0)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    RecordFolder(tmp_path / "e", SETTINGS)
    with pytest.raises(PrefixKVError, match=r"other settings \(metrics; threads\): give --out another"):
        RecordFolder(tmp_path / "e", {**SETTINGS, "threads": 2, "metrics": []})


def test_a_folder_measured_under_the_older_measure_is_refused_in_one_line(tmp_path: Path) -> None:
    head = {"format": "prefixkv-evaluation", "version": 1, "settings": SETTINGS}
    (tmp_path / "head.json").write_text(json.dumps(head), encoding="utf-8")
    with pytest.raises(PrefixKVError, match="when shares were of the model's own dtype: give --out another folder"):
        RecordFolder(tmp_path, SETTINGS)


def test_folders_with_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PrefixKVError, match="holds other files"):
        RecordFolder(tmp_path, SETTINGS)
    with pytest.raises(PrefixKVError, match="no folder"):
        RecordFolder(tmp_path / "notes.txt", SETTINGS)
    (tmp_path / "head.json").write_text(json.dumps({"format": "else"}), encoding="utf-8")
    with pytest.raises(PrefixKVError, match="is not a prefixkv-evaluation file"):
        RecordFolder(tmp_path, SETTINGS)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PrefixKVError, match="symbolic link"):
        RecordFolder(tmp_path / "link", SETTINGS)


def test_records_of_a_changed_method_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    folder.append(0, 1, {CELL: figures(1.0), REFERENCE: figures(0.5)})
    monkeypatch.setitem(METHODS, "h2o", replace(METHODS["h2o"], recent_fraction=0.25))
    assert set(folder.read()) == {(1, REFERENCE)}


def test_records_of_another_profile_are_left_out_where_it_is_used(tmp_path: Path) -> None:
    guided = next(Cell(name, "20%") for name, method in METHODS.items() if method.is_guided)
    RecordFolder(tmp_path / "e", SETTINGS, "one").append(0, 1, {CELL: figures(1.0), guided: figures(2.0)})
    assert set(RecordFolder(tmp_path / "e", SETTINGS, "one").read()) == {(1, CELL), (1, guided)}
    assert set(RecordFolder(tmp_path / "e", SETTINGS, "other").read()) == {(1, CELL)}


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), 10**400, "1.0", None])
def test_what_is_no_number_is_not_written_and_not_read(tmp_path: Path, odd: Any) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    folder.append(0, 1, {CELL: figures(1.0), REFERENCE: figures(0.5)})
    file = tmp_path / "e" / "records-0.jsonl"
    good = file.read_text()
    with pytest.raises(PrefixKVError, match="sample 2 with h2o at 20% cannot be recorded: kept_bytes is") as caught:
        folder.append(0, 2, {REFERENCE: figures(0.5), CELL: figures(1.0, kept_bytes=odd)})
    assert "\n" not in str(caught.value)
    assert file.read_text() == good
    lines = [json.loads(line) for line in good.splitlines()]
    file.write_text("".join(json.dumps(line | {"kept_bytes": odd}) + "\n" for line in lines))
    assert folder.read() == {}


@pytest.mark.parametrize(
    "line", ["[" * 100_000, "[]", "3", "\ud800", '{"sample": 1}', '{"sample": "1", "method": []}', "9" * 5000]
)
def test_an_odd_line_is_measured_again(tmp_path: Path, line: str) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    folder.append(0, 1, {CELL: figures(1.0)})
    with (tmp_path / "e" / "records-0.jsonl").open("ab") as file:
        file.write(line.encode(errors="surrogatepass") + b"\n")
    folder.append(0, 2, {CELL: figures(2.0)})
    assert set(folder.read()) == {(1, CELL), (2, CELL)}


def test_a_folder_that_a_killed_run_has_begun_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".head.json.k3j4").write_bytes(b'{"form')
    assert RecordFolder(tmp_path, SETTINGS).read() == {}
    (tmp_path / "head.json").unlink()
    (tmp_path / "records-0.jsonl").touch()
    with pytest.raises(PrefixKVError, match=r"has records but no head\.json.*give --out another folder"):
        RecordFolder(tmp_path, SETTINGS)


def test_pipes_are_not_read(tmp_path: Path) -> None:
    folder = RecordFolder(tmp_path / "e", SETTINGS)
    os.mkfifo(tmp_path / "e" / "records-0.jsonl")
    with pytest.raises(PrefixKVError, match="no regular file"):
        folder.read()
