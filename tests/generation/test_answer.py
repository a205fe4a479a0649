"""What an answer says of its speed."""

from __future__ import annotations

import pytest

from prefixkv.generation.answer import RATE_TOKENS, Answer, rate


@pytest.mark.parametrize(
    ("tokens", "seconds", "wanted"), [(1, 0.0, None), (RATE_TOKENS - 1, 1.0, None), (10, 3.0, 3.0), (12, 0.0, None)]
)
def test_a_speed_is_told_from_ten_tokens_on(tokens: int, seconds: float, wanted: float | None) -> None:
    assert rate(tokens, seconds) == wanted
    assert Answer("text", 5, tokens, 0.5, seconds, "stop").tokens_per_second == wanted
