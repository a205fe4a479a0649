"""Conversations on a GPU: what was undone or saved comes back bit for bit, by every method in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from prefixkv.cache.snapshot import CacheSnapshot, copy_of
from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.sampling import Sampling
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from tests.gpu.conftest import SEED
from tests.gpu.device import DTYPES

pytestmark = pytest.mark.gpu

QUESTIONS = ("Describe the image.", "How many red objects are there?", "Which object is in row 2, column 2?")
BUDGETS = {"float32": ("10%",), "bfloat16": ("50%", "10%", "3%", "100tok"), "float16": ("3%",)}


def said(talk: Conversation, question: str) -> str:
    return "".join(talk.ask(question)).strip()


def assert_same(one: CacheSnapshot, other: CacheSnapshot) -> None:
    assert (one.limits, one.bits) == (other.limits, other.bits)
    for layer, same in zip(one.layers, other.layers, strict=True):
        for name in ("keys", "values", "positions", "importance", "window"):
            assert torch.equal(getattr(layer, name), getattr(same, name)), name


CASES = [
    (method, dtype, budget)
    for method in METHODS
    for dtype in DTYPES
    for budget in BUDGETS[dtype]
    if not (METHODS[method].keeps_all and budget.endswith("tok"))
]


@pytest.mark.parametrize(("method", "dtype", "budget"), CASES)
def test_undo_save_and_load(
    demo: Callable[[str], LoadedModel], tmp_path: Path, method: str, dtype: str, budget: str
) -> None:
    loaded = demo(dtype)
    talk = Conversation(loaded, budget, method, Sampling(max_new_tokens=24))
    talk.attach(draw_scene(SEED).image)
    said(talk, QUESTIONS[0])
    before = CacheSnapshot.take(talk.cache.row)
    answer = said(talk, QUESTIONS[1])
    talk.undo()
    assert_same(CacheSnapshot.take(talk.cache.row), before)
    assert_same(CacheSnapshot.take(copy_of(talk.cache).row), before)
    assert said(talk, QUESTIONS[1]) == answer
    save_context(talk, tmp_path / "a.safetensors", "a")
    again = load_context(tmp_path / "a.safetensors", loaded, talk.sampling)
    assert_same(CacheSnapshot.take(again.cache.row), CacheSnapshot.take(talk.cache.row))
    assert said(again, QUESTIONS[2]) == said(talk, QUESTIONS[2])
