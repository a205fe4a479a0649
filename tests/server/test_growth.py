"""A server that goes on answering holds no more than it did."""

from __future__ import annotations

import gc
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

import torch
from starlette.testclient import TestClient

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.models.frontend import Frontend
from prefixkv.policy.budget import Budget
from prefixkv.server.app import Limits, Service
from prefixkv.server.desk import Desk, Manner
from prefixkv.server.keys import Keys
from tests.server.running import data_address, user
from tests.small_demo import small_demo

pytestmark = pytest.mark.exhaustive
BETWEEN = 20
MOST_BYTES = 2**10
"""That a request may leave; each leaves a few short texts in torch and in what sends it."""
SOURCES = Path(prefixkv.__file__).parent


def objects() -> Counter[str]:
    """How many of our own objects there are of each kind, and how many tensors."""
    gc.collect()
    kinds = (type(each) for each in gc.get_objects())
    return Counter(
        kind.__name__ for kind in kinds if kind is torch.Tensor or str(kind.__module__).startswith("prefixkv.")
    )


def bytes_of_ours() -> int:
    """That our own lines have taken and not given back, since it is traced."""
    taken = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, f"{SOURCES}/*")])
    return sum(each.size for each in taken.statistics("filename"))


def test_requests_leave_nothing_behind() -> None:
    picture, loaded = data_address(draw_scene(3).image), small_demo()
    with prefixkv.Engine(loaded, memory="16MiB", most_rows=2) as engine:
        desk = Desk(Frontend.of(loaded), engine, Manner(Budget.parse("20%"), "guided", "auto", 2))
        app = Service(desk, Keys.read(None, "unused"), Limits(4, True)).app()
        with TestClient(app, base_url="http://localhost") as client:

            def ask() -> None:
                for number in range(BETWEEN):
                    pictures = [picture] if number % 2 else []
                    asked = {"messages": [user("Say it.", *pictures)], "stream": number % 4 > 1}
                    assert client.post("/v1/chat/completions", json=asked).status_code == 200
                engine._worker.join()
                # The same conversation takes the place of the one before it.
                assert engine.counts().kept_caches == 2

            ask()
            before = objects()
            tracemalloc.start()
            try:
                ask()
                halfway = bytes_of_ours()
                ask()
                grown = bytes_of_ours() - halfway
            finally:
                tracemalloc.stop()
            assert objects() - before == Counter()
            assert grown < MOST_BYTES * BETWEEN
