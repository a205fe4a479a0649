"""States of rows that are read together, apart, and from a copy."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.prefix_entries import PrefixRow
from prefixkv.cache.row import CacheRow
from prefixkv.cache.snapshot import copy_of
from prefixkv.errors import PrefixKVError
from prefixkv.generation.forward import read_tokens
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import asks_for_states, cache_argument
from tests.families.shrunk import small_config, small_model
from tests.families.trial import tokens

pytestmark = pytest.mark.skipif(not asks_for_states(), reason="this transformers keeps states in its own cache only")
LENGTHS = (20, 31, 26)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model(small_config("qwen3_5_text"), reads_pictures=False)


def _row(model: Any, length: int) -> CacheRow:
    row = CacheRow(KVGeometry.of(model.config, "float32"), "50%", "prefixkv")
    _read(model, PrefixKVCache.of_rows([row]), tokens(length, length))
    return row


@torch.no_grad()
def _read(model: Any, cache: PrefixKVCache, text: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=text, **cache_argument(cache), use_cache=True).logits[:, -1]
    return logits


@torch.no_grad()
def test_rows_come_and_go_and_each_is_what_it_is_alone(model: Any) -> None:
    """Three steps: of all rows, of two of them, of all again."""
    groups = ((0, 1, 2), (0, 2), (2, 1, 0))
    with attention.installed(model):
        rows, alone = ([_row(model, length) for length in LENGTHS] for _ in range(2))
        for step, group in enumerate(groups):
            together = read_tokens(model, PrefixKVCache.of_rows([rows[index] for index in group]), torch.tensor(group))
            for place, index in enumerate(group):
                expected = read_tokens(model, PrefixKVCache.of_rows([alone[index]]), torch.tensor([index]))
                torch.testing.assert_close(together[place : place + 1], expected, rtol=1e-4, atol=1e-4, msg=str(step))
    assert {row.usage().left_bytes for row in rows} == {rows[0].geometry.state_bytes}


def test_copy_has_states_of_its_own(model: Any) -> None:
    with attention.installed(model):
        cache = PrefixKVCache.of_rows([_row(model, LENGTHS[0])])
        second = copy_of(cache)
        expected = _read(model, cache, tokens(5, 1))
        assert _read(model, second, tokens(5, 1)).equal(expected)


def test_prefix_brings_its_states_to_every_row(model: Any) -> None:
    text = tokens(40, 2)
    geometry = KVGeometry.of(model.config, "float32")
    with attention.installed(model):
        prefix = PrefixRow(geometry, None)
        _read(model, PrefixKVCache.of_rows([prefix]), text[:, :30])
        whole = CacheRow(geometry, "50%", "prefixkv")
        expected = _read(model, PrefixKVCache.of_rows([whole]), text)
        for _ in range(2):
            row = CacheRow(geometry, "50%", "prefixkv")
            prefix.as_prefix().begin(row)
            logits = _read(model, PrefixKVCache.of_rows([row]), text[:, 30:])
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
            assert row.kept_positions(0).equal(whole.kept_positions(0))


def test_row_that_has_read_is_not_read_with_one_that_has_not(model: Any) -> None:
    with attention.installed(model), pytest.raises(PrefixKVError, match="cannot be read together"):
        fresh = CacheRow(KVGeometry.of(model.config, "float32"), "50%", "prefixkv")
        _read(model, PrefixKVCache.of_rows([_row(model, LENGTHS[0]), fresh]), tokens(5, 1).expand(2, -1))
