"""Stock `generate` inside `compress`, its single-token passes taken by the project's own step."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from transformers import TextStreamer

import prefixkv
from prefixkv.engine import captured_rows
from prefixkv.engine.captured_rows import CapturedRows
from tests import tiny
from tests.cache.test_rows import padded, rows_of
from tests.engine.test_captured_rows import SIZES, mistral

STEPS = 15
"""Of one turn: its first token comes from reading."""
OPTIONS = {"max_new_tokens": STEPS + 1, "do_sample": False, "pad_token_id": 7}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As if a CPU had graphs; how many rows each of the project's own steps read."""
    taken: list[int] = []
    advance = CapturedRows.advance

    def counted(rows: CapturedRows, tokens: torch.Tensor) -> torch.Tensor:
        taken.append(len(rows.places))
        return advance(rows, tokens)

    monkeypatch.setattr(captured_rows, "device_obstacle", lambda device: None)
    monkeypatch.setattr(CapturedRows, "advance", counted)
    return taken


def answers(
    model: Any,
    inputs: dict[str, Any],
    budget: str,
    method: str,
    own: bool,
    monkeypatch: pytest.MonkeyPatch,
    **more: Any,
) -> tuple[list[list[int]], list[Any]]:
    """Two turns of `generate`, and what every row keeps behind them; with or without the project's own steps."""
    monkeypatch.setenv("PREFIXKV_CAPTURE", "1" if own else "0")
    found = []
    torch.manual_seed(5)
    with prefixkv.compress(model, budget, method) as cache:
        for turn in range(2):
            out = model.generate(**inputs, **cache.argument, **(OPTIONS | more))
            found += out[:, inputs["input_ids"].shape[1] :].tolist()
            question = tiny.text(8, seed=turn, batch=len(out))
            mask = torch.ones_like(torch.cat([out, question], dim=1))
            if "attention_mask" in inputs:
                mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
            inputs = {"input_ids": torch.cat([out, question], dim=1), "attention_mask": mask}
    return found, [
        [(layer.kept_positions.tolist(), layer.queue.tolist()) for layer in row.layers] for row in cache.rows
    ]


@pytest.mark.parametrize(
    ("budget", "method"),
    [("100%", "full"), ("30%", "h2o"), ("25%", "prefixkv"), ("20tok", "snapkv"), ("40%", "guided")],
)
@pytest.mark.parametrize("rows", [1, 4])
def test_tokens_and_entries_are_those_of_the_models_own_passes(
    budget: str, method: str, rows: int, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left-padded rows of other lengths, over two turns, float32."""
    # A head must have 32 elements for entries that are packed.
    model = mistral() if method == "guided" else tiny.llama(layers=3)
    inputs = padded(rows_of()[:rows])
    expected = answers(model, inputs, budget, method, False, monkeypatch)
    assert not steps
    assert answers(model, inputs, budget, method, True, monkeypatch) == expected
    assert steps == [rows] * 2 * STEPS


def test_pictures_sampling_and_streamers_change_nothing(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector(TextStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.seen += value.flatten().tolist()

        def end(self) -> None:
            pass

    model, options = tiny.llava(), {"do_sample": True, "temperature": 0.8, "repetition_penalty": 1.2}
    found = []
    for own in (False, True):
        collector = Collector()
        found.append(answers(model, tiny.prompt(), "30%", "h2o", own, monkeypatch, streamer=collector, **options))
        found[-1] = (*found[-1], collector.seen)
    assert found[0] == found[1]
    assert len(steps) == 2 * STEPS


def test_what_asks_for_more_than_logits_goes_the_models_own_way(steps: list[int]) -> None:
    model, token = tiny.llama(), tiny.text(1)
    with prefixkv.compress(model, "50%", "h2o") as cache:
        with torch.no_grad():
            model(input_ids=tiny.text(30), **cache.argument)
            assert len(model(input_ids=token, **cache.argument, output_hidden_states=True).hidden_states) == 3
        assert model(input_ids=token, **cache.argument).logits.requires_grad
        assert not steps
        with torch.no_grad():
            output = model(input_ids=token, **cache.argument)
            assert type(output) is type(model(input_ids=tiny.text(5), **cache.argument))
    assert steps == [1]
    assert output.logits.shape == (1, 1, 200)
    assert cache.seen_tokens == 30 + 3 + 5


def test_the_model_is_as_before(steps: list[int]) -> None:
    model = tiny.llama()
    signature, before = inspect.signature(model.forward), set(vars(model))
    with prefixkv.compress(model, "50%", "h2o"):
        assert inspect.signature(model.forward) == signature
        with prefixkv.compress(model, "20%", "h2o"):
            pass
        assert "forward" in vars(model)
    assert set(vars(model)) == before


def test_a_decoder_of_another_kind_takes_its_own_pass_and_one_with_a_hook_says_so_once(
    steps: list[int], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)).eval()
    inputs = padded(rows_of()[:1])
    expected = answers(model, inputs, "30%", "h2o", False, monkeypatch)
    assert steps == []
    assert answers(model, inputs, "30%", "h2o", True, monkeypatch) == expected
    taken = len(steps)
    assert taken > 0
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert answers(model, inputs, "30%", "h2o", True, monkeypatch) == expected
    assert len(steps) == taken
    told = [str(warning.message) for warning in recwarn if "not captured" in str(warning.message)]
    assert len(told) == 1
    assert "Qwen3MLP has a hook" in told[0]
