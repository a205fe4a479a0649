"""Answers on their way: what has come is told together, and the loop is woken once for all that have changed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from prefixkv.engine.stream import Stream
from prefixkv.generation.answer import AnswerWriter
from prefixkv.generation.logprobs import Logprobs
from prefixkv.generation.sampling import Sampling
from prefixkv.server.app import _Alarm
from prefixkv.server.completion import Completion, Piece
from prefixkv.server.desk import Asked

LETTERS = "abcdefghij"


class Tokenizer:
    """Of letters."""

    eos_token_id = None
    all_special_ids: tuple[int, ...] = ()

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(LETTERS[token] for token in tokens)

    def convert_ids_to_tokens(self, token: int) -> str:
        return LETTERS[token]


def _pieces(groups: list[list[int]], stop: tuple[str, ...] = (), logprobs: int | None = 0) -> list[Piece]:
    """What is told of an answer whose tokens come in groups, while nobody looks in between."""

    async def collect() -> list[Piece]:
        stream, woken, tokenizer = Stream(1, 3), asyncio.Event(), Tokenizer()
        asked = Asked(stream, AnswerWriter(tokenizer, (), stop), Sampling(9, stop=stop, logprobs=logprobs), {}, [])
        desk: Any = SimpleNamespace(frontend=SimpleNamespace(id="letters", tokenizer=tokenizer), ends=set())
        pieces = Completion(desk, asked, woken).pieces()
        found = []
        for group in groups:
            for token in group:
                stream.push(token, None if logprobs is None else Logprobs(-float(token), ()))
            if group is groups[-1]:
                stream.end("stop", None)
            found.append(await anext(pieces))
            woken.set()
        return [*found, *[piece async for piece in pieces]]

    return asyncio.run(collect())


@pytest.mark.parametrize("logprobs", [None, 0])
def test_tokens_that_have_come_together_are_one_piece(logprobs: int | None) -> None:
    alone = _pieces([[0], [1], [2], [3], [4], [5]], logprobs=logprobs)
    together = _pieces([[0, 1, 2], [3], [4, 5]], logprobs=logprobs)
    assert [piece.text for piece in alone] == list("abcdef")
    assert [piece.text for piece in together] == ["abc", "d", "ef"]
    if logprobs is not None:
        told = [[token for piece in pieces for token in piece.logprobs or ()] for pieces in (alone, together)]
        assert told[0] == told[1]
        assert [len(piece.logprobs or ()) for piece in together] == [3, 1, 2]


def test_tokens_of_a_stop_text_are_not_told_with_those_before() -> None:
    (piece,) = _pieces([[0, 1, 3, 4]], stop=("de",))
    assert piece.text == "ab"
    assert [token["token"] for token in piece.logprobs or ()] == ["a", "b"]


def test_a_loop_is_woken_once_for_all_that_it_has_not_looked_at() -> None:
    rung: list[Any] = []
    loop: Any = SimpleNamespace(call_soon_threadsafe=rung.append)
    ended: list[Stream] = []
    metrics: Any = SimpleNamespace(count_stream=ended.append)
    alarm, events, stream = _Alarm(metrics), [asyncio.Event() for _ in range(5)], Stream(1, 1)
    changed = [alarm.waking(loop, event) for event in events]
    for wake in changed[:4]:
        wake(stream)
    assert len(rung) == 1
    rung[0]()
    assert [event.is_set() for event in events] == [True] * 4 + [False]
    changed[4](stream)
    assert len(rung) == 2
    assert not events[4].is_set()
    rung[1]()
    assert events[4].is_set()
    assert ended == []
