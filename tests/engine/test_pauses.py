"""A prompt is read in parts between which running rows take steps: to the same entries and tokens as in one go."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefixkv
from prefixkv.cache.row import CacheRow
from prefixkv.engine import reader
from prefixkv.engine.pauses import pauses
from prefixkv.engine.stepper import Stepper
from prefixkv.engine.stream import Stream
from prefixkv.generation.sampling import Sampling
from prefixkv.kernels.sending import Fetching
from prefixkv.models.decoder_weights import DecoderWeights
from tests import tiny

Kept = dict[int, list[list[int]]]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llava(layers=3)


def _asked(model: Any, method: str, allowance: int | None, budget: str, lengths: list[int]) -> tuple[Any, Kept]:
    """The tokens of requests that come while others run, and the positions that each row kept of its prompt."""
    kept: Kept = {}
    read = reader.read

    def look(model: Any, request: Any, *others: Any) -> Any:
        token = read(model, request, *others)
        row: CacheRow = request.row
        kept[request.number] = [row.kept_positions(layer)[0, 0].tolist() for layer in range(row.geometry.layers)]
        return token

    with (
        pytest.MonkeyPatch.context() as patch,
        prefixkv.Engine(model, method, "40MiB", most_rows=3, allowance=allowance) as engine,
    ):
        patch.setattr(reader, "read", look)
        streams: list[Stream] = []
        for number, length in enumerate(lengths):
            inputs = tiny.prompt(length, seed=number % 2 + 1)
            streams.append(engine.submit(inputs, budget, Sampling(8, temperature=0.7, seed=number), stop_tokens=()))
        return [stream.result(60) for stream in streams], kept


@pytest.mark.filterwarnings("ignore:.* works without look-ahead")
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["h2o", "prefixkv", "snapkv", "guided"]),
    budget=st.sampled_from(["50%", "20%", "24KiB"]),
    lengths=st.lists(st.integers(6, 90), min_size=2, max_size=3),
    allowance=st.sampled_from([1, 7, 20, 60]),
)
def test_parts_of_any_size_keep_the_same_entries(
    model: Any, method: str, budget: str, lengths: list[int], allowance: int
) -> None:
    whole = _asked(model, method, None, budget, lengths)
    assert _asked(model, method, allowance, budget, lengths) == whole


def test_running_rows_get_tokens_while_a_prompt_is_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, given_while_read = reader.read, list[int]()

    def count(*arguments: Any) -> Any:
        before = engine.generated_tokens
        token = read(*arguments)
        given_while_read.append(engine.generated_tokens - before)
        return token

    monkeypatch.setattr(reader, "read", count)
    with prefixkv.Engine(model, "h2o", "40MiB", allowance=30) as engine:
        first = engine.submit(tiny.prompt(60), "50%", Sampling(400), stop_tokens=())
        next(first)
        engine.submit(tiny.prompt(90, seed=2), "50%", Sampling(2), stop_tokens=()).result(60)
        first.cancel()
    # Three layers of 30 tokens each, a step between; the tower's few tokens may call for one more, and so may
    # the end of the pass.
    assert given_while_read[0] == 0
    assert 2 <= given_while_read[1] <= 4


def test_a_device_has_a_step_while_a_first_token_is_waited_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prompt that is read in one go beside a row that runs; a stand-in for a step that a device replays."""
    events, read, advance = list[str](), reader.read, Stepper.advance

    class Watched(Fetching):
        @property
        def host(self) -> torch.Tensor:
            events.append("waits")
            return super().host

    def watched_read(*arguments: Any) -> Any:
        events.append("reads")
        return read(*arguments)

    def watched_step(stepper: Stepper) -> None:
        events.append("steps")
        advance(stepper)

    monkeypatch.setattr("prefixkv.engine.reader.Fetching", Watched)
    monkeypatch.setattr(reader, "read", watched_read)
    monkeypatch.setattr(Stepper, "advance", watched_step)
    monkeypatch.setattr(Stepper, "is_captured", True)
    with prefixkv.Engine(model, "h2o", "40MiB", allowance=1000) as engine:
        first = engine.submit(tiny.prompt(60), "50%", Sampling(400), stop_tokens=())
        next(first)
        second = engine.submit(tiny.prompt(90, seed=2), "50%", Sampling(5, temperature=0.7, seed=3), stop_tokens=())
        found = second.result(60)
        first.cancel()
    assert events[:2] == ["reads", "waits"]
    begun = events.index("reads", 1)
    assert events[begun : begun + 3] == ["reads", "steps", "waits"]
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        alone = engine.submit(tiny.prompt(90, seed=2), "50%", Sampling(5, temperature=0.7, seed=3), stop_tokens=())
        assert alone.result(60) == found


def test_a_prompt_is_not_read_on_for_nobody(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is cancelled while it is read ends there; others that begin with its picture are answered."""
    layer, streams = model.get_decoder().layers[1], list[Stream]()
    calls: list[int] = []

    def cancel(*arguments: Any) -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            streams[0].cancel()

    handle = layer.register_forward_pre_hook(cancel)
    last, begun = model.get_decoder().layers[2], list[int]()
    watch = last.register_forward_pre_hook(lambda *arguments: begun.append(len(calls)))
    prompts = [tiny.prompt(40, seed=1), tiny.prompt(60, seed=1)]
    prompts[1]["input_ids"][:, :5] = prompts[0]["input_ids"][:, :5]
    with prefixkv.Engine(model, "h2o", "40MiB") as engine:
        for prompt in prompts:
            streams.append(engine.submit(prompt, "50%", Sampling(3), stop_tokens=()))
        assert streams[0].result(30) == []
        assert len(streams[1].result(30)) == 3
    handle.remove()
    watch.remove()
    assert streams[0].finish_reason == "cancelled"
    assert streams[0].usage is None
    assert begun[0] > 1
    assert engine.reserved_bytes == 0


def test_passes_of_other_threads_do_not_pause(model: Any) -> None:
    paused: list[float] = []
    inputs = tiny.prompt(30)
    with pauses(model, paused.append), torch.no_grad():
        other = threading.Thread(target=lambda: model(**inputs))
        other.start()
        other.join()
        assert paused == []
        model(**inputs)
        # A model that pauses is still one whose step is captured.
        DecoderWeights.of(model)
    # Once for each block, and when the last one has run.
    assert len(paused) == len(model.get_decoder().layers) + len(model.model.vision_tower.encoder.layers) + 1
    # All layers of the decoder together are the work of the prompt.
    assert sum(paused[-4:-1]) == pytest.approx(30)
    assert not any(module._forward_pre_hooks for module in model.modules())
