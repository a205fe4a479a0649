"""What an answer depends on: how its budget was counted, too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import GenerationConfig

from prefixkv.batch import run
from prefixkv.batch.run import Batch
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget


@pytest.mark.parametrize(
    ("dtype", "budget", "depends"),
    [("float32", "20%", True), ("bfloat16", "20%", False), ("bfloat16", "1MiB", True), ("bfloat16", "20tok", False)],
)
def test_a_file_is_not_gone_on_with_where_its_budget_was_counted_otherwise(
    monkeypatch: pytest.MonkeyPatch, dtype: str, budget: str, depends: bool
) -> None:
    identity = ModelIdentity("m", None, KVGeometry(2, 2, 16, dtype), None)
    model = SimpleNamespace(generation_config=GenerationConfig())
    loaded: Any = SimpleNamespace(model=model, identity=identity)
    batch = Batch([], Path(), Budget.parse(budget), "h2o")
    before = batch.settings(loaded)
    monkeypatch.setattr(run, "MEASURE", "another way")
    assert (batch.settings(loaded) != before) == depends
