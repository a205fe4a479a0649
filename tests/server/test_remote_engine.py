"""An engine at the other end of a pipe is asked as one that is here: the same answers, refusals and counts."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytest

pytest.importorskip("starlette")

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.engine.stream import Stream
from prefixkv.errors import BudgetTooSmallError, DeviceMemoryError, EngineLostError, OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.server.engine_host import EngineHost, run_engine
from prefixkv.server.engine_process import EngineOrder
from prefixkv.server.failures import RefusedError
from prefixkv.server.remote_engine import RemoteEngine
from tests.small_demo import small_demo

BUDGET = Budget.parse("50%")
SHORT = Sampling(max_new_tokens=12, logprobs=2)
LONG = Sampling(max_new_tokens=3000, temperature=50.0, seed=6)


@dataclass
class Thread:
    """Stands for the process: the other end of the pipe, in a thread."""

    pipe: Connection
    theirs: Connection

    def start(self) -> None:
        self.thread = threading.Thread(target=run_engine, args=(self.theirs,), daemon=True)
        self.thread.start()

    def hang_up(self) -> None:
        with socket.socket(fileno=os.dup(self.theirs.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    def end(self, patience: float = 10) -> int:
        self.thread.join(patience)
        self.pipe.close()
        return -9


def process() -> Any:
    thread = Thread(*multiprocessing.Pipe())
    thread.start()
    return thread


def load(notify: Any) -> LoadedModel:
    notify("the model is small")
    return small_demo()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteEngine]:
    # The collector of this process goes on.
    monkeypatch.setattr("prefixkv.server.engine_host.gc.freeze", lambda: None)
    engine, told = RemoteEngine(process()), list[str]()
    engine.order(EngineOrder(load, {"memory": "1MiB", "most_rows": 4}))
    engine.wait(told.append)
    assert told == ["the model is small"]
    yield engine
    engine.close()


def turns(*questions: str) -> list[Turn]:
    return [Turn(text, () if number else (draw_scene(15).image,)) for number, text in enumerate(questions)]


def prompt(*questions: str) -> Prompt:
    return Prompt(small_demo().processor, turns(*(questions or ("Describe the image.",))))


def test_answers_are_those_of_an_engine_that_is_here(engine: RemoteEngine) -> None:
    asked = [prompt(), prompt("How many objects are there?")]
    with prefixkv.Engine(small_demo()) as here:
        expected = [here.submit(each, BUDGET, SHORT) for each in asked]
        for stream in expected:
            stream.result(60)
    seen: list[list[int]] = []
    found = [engine.submit(each, BUDGET, SHORT, on_token=lambda stream: seen.append(stream.tokens)) for each in asked]
    for stream, other in zip(found, expected, strict=True):
        assert list(stream) == stream.result(60) == other.result()
        assert [each.likeliest for each in stream.logprobs] == [each.likeliest for each in other.logprobs]
        assert (stream.usage, stream.finish_reason) == (other.usage, other.finish_reason)
        assert len(stream.times) == len(stream.tokens)
    assert all(any(tokens == other.tokens[: len(tokens)] for other in expected) for tokens in seen)
    assert engine.peak_bytes > 0
    counts = engine.counts()
    assert (counts.running, counts.waiting, counts.reserved_bytes, counts.memory_bytes) == (0, 0, 0, 2**20)


def test_a_later_question_goes_on_from_what_was_kept(engine: RemoteEngine) -> None:
    def ask(asked: Prompt, owner: str) -> Stream:
        stream = engine.submit(asked, BUDGET, SHORT, owner=owner, keep=True)
        stream.result(60)
        return stream

    first = turns("Describe the image.")
    stream = ask(Prompt(small_demo().processor, first), "a")
    assert engine.counts().kept_caches == 1
    first[0].answer = small_demo().tokenizer.decode(stream.tokens)
    later = Prompt(small_demo().processor, [*first, Turn("How many?", (draw_scene(16).image,))])
    assert ask(later, "b").cached_tokens == 0
    # The answer may be spelt with other tokens; all before it was read.
    cached = ask(later, "a").cached_tokens
    assert cached in (0, stream.prompt_tokens + len(stream.tokens) - 1)
    assert engine.counts().kept_cache_bytes > 0


def test_what_cannot_be_answered_is_refused_at_once(engine: RemoteEngine) -> None:
    for kind, options, says in (
        (BudgetTooSmallError, {"budget": Budget.parse("256B")}, "256B"),
        (BudgetTooSmallError, {"budget": Budget.parse("100%"), "sampling": Sampling(4000)}, "--memory"),
        (OptionError, {"method": "none"}, "none"),
        (OptionError, {"codec": "int3"}, "int3"),
        (PrefixKVError, {"prompt": prompt("so " * 5000)}, "the model reads"),
    ):
        given = {"prompt": prompt(), "budget": BUDGET, "sampling": SHORT, **options}
        with pytest.raises(kind, match=says) as refused:
            engine.submit(**given)  # type: ignore[arg-type]
        assert type(refused.value) is kind
    assert engine.counts().waiting == engine.counts().reserved_bytes == 0
    assert engine.submit(prompt(), BUDGET, SHORT).result(60)


def test_who_is_cancelled_frees_its_row(engine: RemoteEngine) -> None:
    first, ended = threading.Event(), threading.Event()
    stream = engine.submit(
        prompt(), BUDGET, LONG, on_token=lambda stream: first.set(), on_end=lambda stream: ended.set()
    )
    assert first.wait(60)
    assert engine.counts().running == 1
    stream.cancel()
    assert ended.wait(60)
    assert stream.finish_reason == "cancelled"
    assert stream.result(0)
    assert len(stream.result(0)) < LONG.max_new_tokens
    assert engine.counts().running == engine.counts().reserved_bytes == 0


def test_nobody_waits_for_a_process_that_has_ended(engine: RemoteEngine) -> None:
    lost: list[str] = []
    engine.when_lost(lambda: lost.append("lost"))
    ended = threading.Event()
    stream = engine.submit(prompt(), BUDGET, LONG, on_end=lambda stream: ended.set())
    theirs: Any = engine._process
    next(stream)
    # Hung up without a word, as the system does for a process that is killed.
    theirs.hang_up()
    assert ended.wait(60)
    with pytest.raises(EngineLostError, match="has ended with code -9") as failed:
        list(stream)
    assert RefusedError.of(failed.value).status == 503
    for ask in (engine.counts, lambda: engine.submit(prompt(), BUDGET, SHORT)):
        with pytest.raises(EngineLostError):
            ask()
    assert lost == ["lost"]
    engine.when_lost(lambda: lost.append("asked later"))
    assert lost == ["lost", "asked later"]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (DeviceMemoryError("no room"), DeviceMemoryError, "no room"),
        (ValueError("broken"), PrefixKVError, "ValueError: broken"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_said_so(error: Exception, kind: type[Exception], says: str) -> None:
    def fail(notify: Any) -> LoadedModel:
        raise error

    thread = Thread(*multiprocessing.Pipe())
    engine = RemoteEngine(thread)  # type: ignore[arg-type]
    host = EngineHost(thread.theirs)
    host._wire.receive = lambda: EngineOrder(fail, {})  # type: ignore[method-assign]
    host.run()
    with pytest.raises(kind, match=says):
        engine.wait()
    host.close()


def test_what_a_step_gives_goes_in_one_message(engine: RemoteEngine) -> None:
    host = EngineHost(multiprocessing.Pipe()[0])
    woken: list[int] = []
    host._wire.wake = lambda: woken.append(len(woken))  # type: ignore[method-assign]
    host._engine = type("Engine", (), {"peak_bytes": 7, "close": lambda self: None})()  # type: ignore[assignment]
    streams = {number: Stream(number, 3) for number in (1, 2, 3)}
    host._sent = dict.fromkeys(streams, 0)
    for number, stream in streams.items():
        for token in range(number):
            stream.push(token)
            host._changed(number, stream)
    assert woken == [0]
    growth = host._growth()
    assert [(number, tokens) for number, tokens, _, _ in growth.streams] == [(1, [0]), (2, [0, 1]), (3, [0, 1, 2])]
    streams[2].push(5)
    host._changed(2, streams[2])
    streams[2].end("stop", None)
    host._changed(2, streams[2])
    assert len(woken) == 2
    ((number, tokens, _, end),) = host._growth().streams
    assert (number, tokens) == (2, [5])
    assert end is not None
    assert end.reason == "stop"
    # Its end is told once.
    host._changed(2, streams[2])
    assert host._growth().streams == []


def test_a_first_question_leaves_its_pictures_behind() -> None:
    one, two = prompt(), prompt("Describe the image.", "How many?")
    assert one.portable().picture_digests == one.picture_digests == two.portable().picture_digests
    assert len(one.picture_digests) == 1
    assert [len(turn.images) for each in (one, two) for turn in each.portable().turns] == [0, 1, 0]
    assert len(one.turns[0].images) == 1
    assert one.portable().processor is None
    assert one.processor is not None
