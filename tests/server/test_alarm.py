"""How often the event loop looks at answers that grow."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from prefixkv.server import app
from prefixkv.server.app import _Alarm


@pytest.mark.parametrize(("answers", "least"), [(1, 0.0), (10, 0.2)])
def test_the_more_answers_the_less_often_they_are_looked_at(
    answers: int, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PIECE_SECONDS", 0.02 if answers > 1 else 0.0)
    alarm = _Alarm(cast(Any, SimpleNamespace(count_stream=pytest.fail)), lambda: answers)

    async def two_looks() -> float:
        loop, first, second = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        token = cast(Any, SimpleNamespace(is_done=False))
        change = alarm.waking(loop, first), alarm.waking(loop, second)
        await asyncio.to_thread(change[0], token)
        await asyncio.wait_for(first.wait(), 10)
        began = time.monotonic()
        for _ in range(3):
            await asyncio.to_thread(change[1], token)
        await asyncio.wait_for(second.wait(), 10)
        return time.monotonic() - began

    took = asyncio.run(two_looks())
    assert least * 0.9 <= took < least + 1
