"""A step in which rows attend together gives what each row's own attention gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention, row_step
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.generation.forward import read_tokens
from prefixkv.models.identity import ModelIdentity
from prefixkv.transformers_compat import cache_argument
from tests import tiny

KINDS = [("30%", "h2o", "plain"), ("50%", "snapkv", "int8"), ("20%", "prefixkv", "int4"), ("100%", "full", "plain")]
RUNS = [("20%", "guided", "mixed"), ("14%", "guided", "mixed"), ("20%", "h2o", "k4v2"), ("20%", "snapkv", "int2")]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llama(layers=4)


def _rows(model: Any) -> list[CacheRow]:
    """Rows of many lengths, budgets, methods and codecs, each of which has read a prompt."""
    geometry = ModelIdentity.of("tiny", model.config, "float32").geometry
    rows = []
    for number, (budget, method, codec) in enumerate([*KINDS, *RUNS] * 2):
        row = CacheRow(geometry, budget, method, codec=codec)
        ids = torch.randint(0, 190, (1, 20 + 5 * number), generator=torch.Generator().manual_seed(number))
        model(input_ids=ids, **cache_argument(PrefixKVCache.of_rows([row])), use_cache=True)
        rows.append(row)
    return rows


def test_rows_attend_as_each_to_its_unpacked_entries(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad(), attention.installed(model):
        together, alone = _rows(model), _rows(model)
        view, single = PrefixKVCache.of_rows(together), [PrefixKVCache.of_rows([row]) for row in alone]
        for step in range(5):
            tokens = torch.arange(len(together)) * 7 + step
            logits = read_tokens(model, view, tokens)
            for number, cache in enumerate(single):
                with monkeypatch.context() as patch:
                    patch.setattr(row_step.RowSteps, "can_attend", lambda *parts: False)
                    own = read_tokens(model, cache, tokens[number : number + 1])[0]
                torch.testing.assert_close(logits[number], own, rtol=0, atol=2e-4)
    for one, other in zip(together, alone, strict=True):
        for layer in range(4):
            assert torch.equal(one.kept_positions(layer), other.kept_positions(layer))


def test_working_copy_holds_few_bytes_or_one_row(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad(), attention.installed(model):
        rows = _rows(model)
        entry_bytes = rows[0].geometry.entry_bytes
        copies = []
        for most_bytes in (0, 150 * entry_bytes, row_step.COPY_BYTES):
            monkeypatch.setattr(row_step, "COPY_BYTES", most_bytes)
            view = PrefixKVCache.of_rows(rows)
            logits = read_tokens(model, view, torch.arange(len(rows)))
            longest = max(layer.stored_tokens for row in rows for layer in row.layers if row.bits)
            copies.append(view._pass._steps._copy.nbytes // entry_bytes)
            assert logits.isfinite().all()
    assert 0 < copies[0] <= longest < copies[1] <= 150 < copies[2]


def test_batch_of_generate_steps_together(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens of a padded batch under stock `generate` are those that rows attending by themselves give."""
    ids = torch.randint(0, 190, (3, 40), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, :15] = 0

    def answers() -> list[list[int]]:
        with prefixkv.compress(model, "30%", "guided") as cache:
            options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": mask}
            return model.generate(ids, **cache.argument, **options)[:, 40:].tolist()

    together = answers()
    monkeypatch.setattr(row_step.RowSteps, "can_attend", lambda steps, *parts: False)
    assert answers() == together
