"""What a finished batch is known by, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefixkv.batch import settings_memo
from prefixkv.batch.settings_memo import request_digest
from prefixkv.models.choice import SMALL


def test_files_of_every_model_that_auto_may_mean_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"demo": tmp_path / "demo", SMALL.id: tmp_path / "small"}
    for folder in folders.values():
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    here = {"demo": folders["demo"]}
    monkeypatch.setattr(settings_memo, "model_folder", here.get)
    assert request_digest(SMALL.id, {}) is None
    only_demo = request_digest("auto", {})
    here[SMALL.id] = folders[SMALL.id]
    both = request_digest("auto", {})
    (folders[SMALL.id] / "model.safetensors").write_bytes(b"other weights")
    changed = request_digest("auto", {})
    assert None not in (only_demo, both, changed)
    assert len({only_demo, both, changed}) == 3
