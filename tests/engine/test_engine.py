"""Whatever runs beside it, and whenever it comes, a request is answered as it is alone."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefixkv
from prefixkv.engine.decoding import decode
from prefixkv.engine.stepper import Stepper
from prefixkv.engine.stream import Stream
from prefixkv.errors import BudgetTooSmallError, OptionError, PrefixKVError
from prefixkv.generation.sampling import Sampling
from tests import tiny

METHODS = ["prefixkv", "guided", "full", "h2o", "snapkv", "prefixkv-release"]
BUDGETS = ["100%", "50%", "20%", "5%", "24KiB"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llama(layers=4)


def alone(
    model: Any, ids: torch.Tensor, budget: str, method: str, sampling: Sampling, stops: tuple[int, ...]
) -> list[int]:
    """The tokens of one request that nothing runs beside, by the path of `chat`."""
    with prefixkv.compress(model, budget, method) as cache:
        return list(decode(model, {"input_ids": ids}, cache, sampling, stops))


samplings = st.builds(
    Sampling,
    max_new_tokens=st.integers(1, 24),
    temperature=st.sampled_from([0.0, 0.0, 0.8, 2.0]),
    top_p=st.sampled_from([1.0, 0.9]),
    top_k=st.sampled_from([0, 20]),
    seed=st.integers(0, 2**63 - 1),
)
requests = st.tuples(
    st.integers(1, 90), st.sampled_from(BUDGETS), samplings, st.sampled_from([(), (5, 17, 90, 101)]), st.integers(0, 20)
)


@pytest.mark.exhaustive(keep=3)
@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(requests, min_size=1, max_size=6), rows=st.integers(1, 6), ahead=st.booleans(), data=st.data())
def test_any_arrivals_give_what_each_gives_alone(
    model: Any, method: str, asked: list[Any], rows: int, ahead: bool, data: st.DataObject
) -> None:
    streams: list[tuple[Stream, list[int] | None]] = []
    # Steps are queued ahead where a GPU replays them; the order of things is the same here.
    replays = mock.patch.object(Stepper, "is_captured", ahead)
    with replays, prefixkv.Engine(model, method, "40MiB", most_rows=rows, allowance=20) as engine:
        for number, (length, budget, sampling, stops, pause) in enumerate(asked):
            if method == "full" and budget == "24KiB":
                budget = "20%"
            ids = tiny.text(length, seed=100 + number)
            stream = engine.submit({"input_ids": ids}, budget, sampling, stop_tokens=stops)
            is_cancelled = data.draw(st.integers(0, 4)) == 0
            streams.append((stream, alone(model, ids, budget, method, sampling, stops)))
            for _ in range(pause if is_cancelled else 0):
                if next(stream, None) is None:
                    break
            if is_cancelled:
                stream.cancel()
        for stream, expected in streams:
            tokens = stream.result(60)
            assert expected is not None
            assert tokens == expected[: len(tokens)]
            if stream.finish_reason != "cancelled":
                assert tokens == expected
    assert engine.reserved_bytes == engine.running == 0


@pytest.mark.exhaustive
def test_32_threads_on_one_model(model: Any) -> None:
    """The engine, caches of `compress` and one another beside them; the model is afterwards as it was."""
    before = {name: value for name, value in vars(model).items() if not name.startswith("__")}
    chosen = model.config._attn_implementation
    prompts = [tiny.text(10 + 3 * index, seed=index) for index in range(32)]
    options = Sampling(max_new_tokens=12)
    expected = [alone(model, ids, "30%", "prefixkv", options, ()) for ids in prompts]
    found: list[Any] = [None] * len(prompts)

    def ask(index: int, engine: prefixkv.Engine) -> None:
        try:
            if index % 2:
                found[index] = engine.submit({"input_ids": prompts[index]}, "30%", options, stop_tokens=()).result(120)
            else:
                found[index] = alone(model, prompts[index], "30%", "prefixkv", options, ())
        except Exception as error:
            found[index] = error

    with prefixkv.Engine(model, "prefixkv", "40MiB", most_rows=5) as engine:
        threads = [threading.Thread(target=ask, args=(index, engine)) for index in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == expected
    assert model.config._attn_implementation == chosen
    assert {name: value for name, value in vars(model).items() if not name.startswith("__")} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_stream_ends_by_length_stop_cancel_and_deadline(model: Any) -> None:
    ids = {"input_ids": tiny.text(30)}
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        short = engine.submit(ids, sampling=Sampling(3), stop_tokens=())
        assert len(short.result(30)) == 3
        third = short.tokens[2]
        stopped = engine.submit(ids, sampling=Sampling(50), stop_tokens=(third,))
        assert stopped.result(30)[-1] == third
        long = engine.submit(ids, sampling=Sampling(100_000), stop_tokens=())
        assert [next(long) for _ in range(3)] == short.tokens
        assert engine.reserved_bytes > 0
        long.cancel()
        late = engine.submit(ids, sampling=Sampling(100_000), deadline=0.2, stop_tokens=())
        long.result(30), late.result(30)
        reasons = [stream.finish_reason for stream in (short, stopped, long, late)]
        assert reasons == ["length", "stop", "cancelled", "deadline"]
        assert late.usage is not None
        assert late.usage.kept_bytes < late.usage.full_bytes
        assert engine.reserved_bytes == 0


@pytest.mark.parametrize("ahead", [False, True])
def test_each_token_is_given_before_the_step_after_the_next(
    model: Any, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """One step is under way while tokens are handed out, and none is queued for a row that needs no more."""
    monkeypatch.setattr(Stepper, "is_captured", ahead)
    queued: list[int] = []
    advance, fetch = Stepper.advance, Stepper.tokens

    def count(stepper: Stepper) -> None:
        queued.append(1)
        advance(stepper)

    def collect(stepper: Stepper) -> dict[int, int]:
        queued.append(-1)
        return fetch(stepper)

    monkeypatch.setattr(Stepper, "advance", count)
    monkeypatch.setattr(Stepper, "tokens", collect)
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        tokens = engine.submit({"input_ids": tiny.text(30)}, sampling=Sampling(9), stop_tokens=()).result(60)
    assert len(tokens) == 9
    assert sum(queued) == 0
    assert queued.count(1) == 8
    assert max(sum(queued[: place + 1]) for place in range(16)) == (2 if ahead else 1)


def test_tokens_are_told_once_the_step_after_them_is_queued(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told works while the engine's thread waits; every token is told of, and so is the end."""
    monkeypatch.setattr(Stepper, "is_captured", True)
    queued, told, advance = [0], list[tuple[int, int]](), Stepper.advance

    def count(stepper: Stepper) -> None:
        queued[0] += 1
        advance(stepper)

    monkeypatch.setattr(Stepper, "advance", count)
    ids = torch.randint(5, 90, (1, 20))
    with prefixkv.Engine(model, "h2o") as engine:
        stream = engine.submit(
            {"input_ids": ids},
            "50%",
            Sampling(8),
            stop_tokens=(),
            on_token=lambda stream: told.append((len(stream.tokens), queued[0])),
        )
        stream.result(60)
    # The first token comes from reading; for the last one no step is needed.
    assert told == [(1, 1), *((tokens, min(tokens + 1, 7)) for tokens in range(2, 9))]


def test_what_never_fits_is_refused_and_the_others_wait_for_memory(model: Any) -> None:
    one = prefixkv.Engine(model, "h2o", "40MiB").footprint(60, "20%", 10).most
    with prefixkv.Engine(model, "h2o", 2 * one) as engine:
        with pytest.raises(BudgetTooSmallError, match="memory is"):
            engine.submit({"input_ids": tiny.text(900)}, "100%")
        most = 0
        streams = [
            engine.submit({"input_ids": tiny.text(60, seed=n)}, "20%", Sampling(10), stop_tokens=()) for n in range(9)
        ]
        while not all(stream.is_done for stream in streams):
            most = max(most, engine.reserved_bytes)
            time.sleep(0.001)
        assert 0 < most <= 2 * one
        assert all(len(stream.result(1)) == 10 for stream in streams)


def test_bad_requests_get_one_line(model: Any) -> None:
    engine = prefixkv.Engine(model, "h2o", "1MiB")
    with pytest.raises(PrefixKVError, match="one prompt"):
        engine.submit({"input_ids": tiny.text(5, batch=2)})
    with pytest.raises(OptionError, match="deadline"):
        engine.submit({"input_ids": tiny.text(5)}, deadline=-1.0)
    with pytest.raises(OptionError, match="budget"):
        engine.submit({"input_ids": tiny.text(5)}, "much")
    with pytest.raises(OptionError, match="memory"):
        prefixkv.Engine(model, memory="20%")
    with pytest.raises(OptionError, match="method"):
        prefixkv.Engine(model, "no-method")
    engine.close()
    engine.close()
    with pytest.raises(PrefixKVError, match="closed"):
        engine.submit({"input_ids": tiny.text(5)})


def test_an_answer_ends_with_the_models_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, notices = tiny.llama(layers=2), list[str]()
    monkeypatch.setattr(model.config, "max_position_embeddings", 24)
    with prefixkv.Engine(model, "h2o", notify=notices.append) as engine:
        stream = engine.submit({"input_ids": torch.randint(5, 90, (1, 20))}, "50%", Sampling(8), stop_tokens=())
        assert len(stream.result(60)) == 4
        assert stream.finish_reason == "length"
        assert notices == ["the answer has room for 4 tokens: then the model's positions are used up"]
        with pytest.raises(PrefixKVError, match="24 tokens, and the model reads 24, its answer among them"):
            engine.submit({"input_ids": torch.randint(5, 90, (1, 24))})


def test_an_error_is_its_own_requests_alone(model: Any) -> None:
    ids = {"input_ids": tiny.text(20)}
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        good = engine.submit(ids, sampling=Sampling(20), stop_tokens=())
        bad = engine.submit({"input_ids": torch.tensor([[3, 100_000]])}, sampling=Sampling(20))
        other = engine.submit(ids, sampling=Sampling(20), stop_tokens=())
        with pytest.raises(IndexError, match="out of range"):
            bad.result(30)
        assert good.result(30) == other.result(30)


def test_closing_ends_what_is_asked(model: Any) -> None:
    engine = prefixkv.Engine(model, "h2o", "40MiB", most_rows=1)
    streams = [engine.submit({"input_ids": tiny.text(20)}, "5%", Sampling(10_000), stop_tokens=()) for _ in range(3)]
    next(streams[0])
    engine.close()
    assert {stream.finish_reason for stream in streams} == {"cancelled"}
    assert not [thread for thread in threading.enumerate() if thread.name == "prefixkv-engine"]


def test_full_memory_of_the_device_waits_for_those_that_run(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefixkv.engine import reader

    read, failures = reader.read, iter([False, True, False])

    def failing(*arguments: Any) -> int:
        if next(failures, False):
            raise torch.OutOfMemoryError("no memory")
        return read(*arguments)

    monkeypatch.setattr(reader, "read", failing)
    ids = {"input_ids": tiny.text(20)}
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        streams = [engine.submit(ids, sampling=Sampling(40), stop_tokens=()) for _ in range(2)]
        assert streams[0].result(30) == streams[1].result(30)
    failures = iter([True])
    with prefixkv.Engine(model, "h2o", "40MiB") as engine, pytest.raises(PrefixKVError, match="ran out of memory"):
        engine.submit(ids, sampling=Sampling(4)).result(30)


NO_MEMORY = [
    torch.OutOfMemoryError("no memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", [*NO_MEMORY, ValueError("odd")], ids=["gpu", "cpu", "another"])
@pytest.mark.parametrize("place", ["join", "advance", "tokens"])
def test_a_step_that_fails_leaves_every_place_free(
    model: Any, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    """Joining fails for one request; a step for all that run; and what is asked next finds room."""
    ids, sampling = {"input_ids": tiny.text(20)}, Sampling(8)
    does, fails = getattr(Stepper, place), iter([False, True] if place == "join" else [True])

    def failing(*arguments: Any) -> Any:
        done = does(*arguments)
        if next(fails, False):
            raise error
        return done

    with prefixkv.Engine(model, "h2o", "40MiB", most_rows=2) as engine:
        expected = engine.submit(ids, sampling=sampling, stop_tokens=()).result(30)
        monkeypatch.setattr(Stepper, place, failing)
        streams = [engine.submit(ids, sampling=sampling, stop_tokens=()) for _ in range(2)]
        ended = [outcome(stream) for stream in streams]
        failures = [each for each in ended if isinstance(each, Exception)]
        assert [each for each in ended if not isinstance(each, Exception)] == [expected] * (2 - len(failures))
        assert len(failures) == 1 or (place != "join" and failures)
        says = "ran out of memory: give a smaller" if error in NO_MEMORY else "odd"
        assert all(says in str(failure) for failure in failures)
        assert [engine.submit(ids, sampling=sampling, stop_tokens=()).result(30) for _ in range(3)] == [expected] * 3
        assert engine.reserved_bytes == 0


def outcome(stream: Stream) -> list[int] | Exception:
    """The tokens of a request, or what it has ended in."""
    try:
        return stream.result(30)
    except Exception as error:
        return error


def test_the_trace_opens(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with prefixkv.Engine(model, "h2o", "40MiB", trace=path) as engine:
        for _ in range(3):
            engine.submit({"input_ids": tiny.text(20)}, sampling=Sampling(5), stop_tokens=()).result(30)
    events = [event for event in json.loads(path.read_text()) if event]
    names = [event["name"] for event in events]
    assert (names.count("read"), names.count("admission"), names.count("end")) == (3, 3, 3)
    assert names.count("step") == 12
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in events if event["ph"] == "X")
