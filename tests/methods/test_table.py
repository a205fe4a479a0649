"""The table of methods."""

from __future__ import annotations

from itertools import pairwise

import pytest

from prefixkv.errors import OptionError
from prefixkv.methods.table import METHODS, get_method


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"did you mean 'prefixkv'\? choose one of full, local, h2o, prefixkv, "):
        get_method("prefixvk")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kept_len", [1, 2, 24, 25, 26, 400])
def test_window_is_never_empty(name: str, kept_len: int) -> None:
    method = METHODS[name]
    for newest in {0, method.newest_len(kept_len)}:
        slots = [slot for part in method.evictable(kept_len, newest) for slot in part]
        assert slots
        assert len(slots) == len(set(slots))
        assert set(slots) <= set(range(kept_len))


def test_prefixkv_deletes_where_the_release_does() -> None:
    method = METHODS["prefixkv"]
    assert [method.evictable(kept)[0][0] for kept in (125, 26, 25, 4)] == [100, 1, 12, 2]


@pytest.mark.parametrize(
    ("kept_len", "lasting"), [(1, 0), (8, 4), (18, 9), (36, 18), (60, 30), (64, 32), (65, 33), (200, 167), (600, 500)]
)
def test_only_the_last_tokens_written_have_room(kept_len: int, lasting: int) -> None:
    """All entries last but for 32 slots of what is written, or a sixth; half of them always do."""
    assert get_method("guided").evictable(kept_len) == [range(kept_len - 1, lasting - 1, -1)]
    half = min(kept_len // 2, kept_len - 1)
    assert get_method("tgv").evictable(kept_len) == [range(kept_len - 1, half - 1, -1)]


def test_of_few_entries_decoding_evicts_the_newest_of_the_prompt() -> None:
    method = get_method("guided")
    counts = [method.newest_len(even) for even in range(1, 100)]
    assert counts[:32] == [16] * 32
    assert counts[63:] == [0] * 36
    assert all(0 <= before - after <= 1 for before, after in pairwise(counts)), "it fades out step by step"
    assert get_method("tgv").newest_len(10) == 0
    assert [list(part) for part in method.evictable(9, 16)] == [[8, 6, 4, 2, 0]]
    assert method.evictable(32, 16) == [range(30, -1, -2)]
    assert method.evictable(48, 8) == [range(47, 31, -1), range(14, -1, -2)]
