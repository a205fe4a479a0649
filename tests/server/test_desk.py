"""What a server does before the first question comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("starlette")

import prefixkv
from prefixkv.engine.stream import Stream
from prefixkv.models.frontend import Frontend
from prefixkv.policy.budget import Budget
from prefixkv.server.desk import Desk, Manner
from tests.small_demo import small_demo


def test_warming_up_answers_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, asked = small_demo(), list[Stream]()
    manner = Manner(Budget.parse("20%"), "h2o", "int4")
    with prefixkv.Engine(loaded, memory="16MiB") as engine:
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *given, **named: asked.append(submit(*given, **named)) or asked[-1]
        )
        Desk(Frontend.of(loaded), engine, manner).warm_up()
        (stream,) = asked
        assert stream.is_done
        assert len(stream.tokens) in (1, 2)
        engine._worker.join()
        counts = engine.counts()
        assert (counts.running, counts.kept_caches, counts.reserved_bytes) == (0, 0, 0)


def test_a_server_begins_though_warming_up_fails() -> None:
    loaded = small_demo()
    with prefixkv.Engine(loaded, memory="16MiB") as engine:
        for budget, processor in (("1tok", loaded.processor), ("20%", None)):
            frontend = replace(Frontend.of(loaded), processor=processor)
            Desk(frontend, engine, Manner(Budget.parse(budget), "guided", "auto")).warm_up()
