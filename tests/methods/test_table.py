"""The table of methods."""

from __future__ import annotations

import pytest

from prefixkv.errors import OptionError
from prefixkv.methods.table import METHODS, get_method


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"did you mean 'prefixkv'\? choose one of full, local, h2o, prefixkv, "):
        get_method("prefixvk")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kept_len", [1, 2, 24, 25, 26, 400])
def test_window_is_never_empty(name: str, kept_len: int) -> None:
    slots = METHODS[name].evictable(kept_len)
    assert len(slots) > 0
    assert set(slots) <= set(range(kept_len))


def test_prefixkv_deletes_where_the_release_does() -> None:
    method = METHODS["prefixkv"]
    assert [method.evictable(kept)[0] for kept in (125, 26, 25, 4)] == [100, 1, 12, 2]


@pytest.mark.parametrize(
    ("kept_len", "lasting"), [(1, 0), (8, 1), (18, 2), (30, 3), (36, 4), (60, 28), (64, 32), (200, 167), (600, 500)]
)
def test_only_the_last_tokens_written_have_room(kept_len: int, lasting: int) -> None:
    """All entries last but for 32 slots of what is written, or a sixth; an eighth of them always does."""
    assert list(get_method("guided").evictable(kept_len)) == list(range(kept_len - 1, lasting - 1, -1))
    half = min(kept_len // 2, kept_len - 1)
    assert list(get_method("tgv").evictable(kept_len)) == list(range(kept_len - 1, half - 1, -1))
