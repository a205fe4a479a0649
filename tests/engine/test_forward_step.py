"""Transformers' own forward pass as a step on the entry table, on the CPU in plain torch, float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.cache.snapshot import CacheSnapshot
from prefixkv.decoder.captured import CapturedStep
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.engine import captured_rows
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.generation.forward import read_tokens
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument
from tests import tiny
from tests.families import checks
from tests.families.all_families import FAMILIES
from tests.families.capture import FORWARD, OWN, captured_by

STEPS = 30


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a CPU had graphs: a step is computed anew where a GPU replays it."""
    monkeypatch.setattr(captured_rows, "device_obstacle", lambda device: None)


def _read(model: Any, geometry: KVGeometry, prompts: list[Any]) -> list[CacheRow]:
    rows = []
    for inputs in prompts:
        row = CacheRow(geometry, "30%", "prefixkv")
        cache = PrefixKVCache.of_rows([row])
        model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        rows.append(row)
    return rows


def _same(one: CacheRow, other: CacheRow) -> None:
    """Both store the same entries."""
    assert [layer.kept_positions.tolist() for layer in one.layers] == [
        layer.kept_positions.tolist() for layer in other.layers
    ]
    for layer, same in zip(CacheSnapshot.take(one).layers, CacheSnapshot.take(other).layers, strict=True):
        torch.testing.assert_close(layer.keys, same.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.values, same.values, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _steps_alike(model: Any, geometry: KVGeometry, prompts: list[Any]) -> None:
    """Captured steps of ragged rows, then plain ones, then captured ones again, against plain ones alone."""
    with attention.installed(model):
        rows, same = _read(model, geometry, prompts), _read(model, geometry, prompts)
        together = CapturedRows(model, len(rows))
        for place, row in enumerate(rows):
            together.join(place, row)
        for step in range(STEPS):
            tokens = tiny.text(1, step, len(rows))[:, 0] % 90 + 5
            expected = read_tokens(model, PrefixKVCache.of_rows(same), tokens)
            if step in (STEPS // 2, STEPS // 2 + 1):
                found = read_tokens(model, PrefixKVCache.of_rows(rows), tokens)
            else:
                found = together.advance(tokens)
            assert float(expected.std()) > 0.01
            torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)
            if step == STEPS // 3:
                # Whoever looks on the way changes nothing.
                _same(rows[0], same[0])
        for one, other in zip(rows, same, strict=True):
            _same(one, other)
            assert one.usage().allocated_bytes > 0


@pytest.mark.exhaustive(keep=2)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_steps_on_the_table_as_by_itself(family: str) -> None:
    try:
        built = FAMILIES[family]()
    except ImportError as error:
        pytest.skip(f"{family} needs a package of its own here: {error}")
    loaded = checks.loaded(built)
    prompts = [
        Prompt(built.processor, [Turn("ba ce di fo gu " * repeats, pictures)]).inputs
        for repeats, pictures in checks.rows_of(built)
    ]
    geometry = loaded.geometry
    if geometry.is_latent or geometry.layers < geometry.decoder_layers:
        with pytest.raises(NotCapturableError, match=r"layers that are left alone|keys and values are not alike"):
            _steps_alike(built.model, geometry, prompts)
        return
    _steps_alike(built.model, geometry, prompts)
    # On tensors without numbers nothing can be waited for.
    assert captured_by(built.model) in (OWN, FORWARD)


def test_a_pass_that_waits_is_told() -> None:
    model = _mixture()
    model.set_experts_implementation("eager")
    assert captured_by(model).startswith("no: ")


def _mixture() -> Any:
    torch.manual_seed(6)
    config = Qwen3MoeConfig(
        vocab_size=200,
        hidden_size=64,
        moe_intermediate_size=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return Qwen3MoeForCausalLM(config).eval()


class Adapter(torch.nn.Module):
    """A low-rank adapter around a linear layer, which can be switched off."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base, self.is_on = base, True
        self.down = torch.nn.Linear(base.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, base.out_features, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        plain: torch.Tensor = self.base(hidden)
        return plain + self.up(self.down(hidden)) if self.is_on else plain


def _adapted() -> Any:
    model = tiny.llama(layers=3)
    for layer in model.model.layers:
        layer.self_attn.q_proj = Adapter(layer.self_attn.q_proj)
        layer.mlp.up_proj = Adapter(layer.mlp.up_proj)
    return model


@pytest.mark.parametrize("build", [_mixture, _adapted])
def test_experts_and_adapters_stay_their_own(build: Any) -> None:
    model = build()
    geometry = KVGeometry.of(model.config, "float32")
    _steps_alike(model, geometry, [{"input_ids": tiny.text(length)} for length in (40, 9, 23)])


def test_who_switches_an_adapter_gets_another_step() -> None:
    model = _adapted()
    with attention.installed(model):
        step = CapturedStep.of(model, 1)
        assert CapturedStep.of(model, 1) is step
        model.model.layers[1].mlp.up_proj.is_on = False
        assert CapturedStep.of(model, 1) is not step


def test_what_cannot_be_captured_says_why_and_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that fails where it is tried leaves rows to the plain path."""
    model, tries = _adapted(), list[int]()
    row = _read_alone(model)

    def waits(self: Adapter, hidden: torch.Tensor) -> torch.Tensor:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(Adapter, "forward", waits)
    with attention.installed(model):
        for _ in range(2):
            with pytest.raises(NotCapturableError, match="path: its forward pass cannot be captured: operation not"):
                CapturedRows(model, 2).join(0, row)
    assert len(tries) == 1


def _read_alone(model: Any) -> CacheRow:
    with prefixkv.compress(model, "50%", "h2o") as cache, torch.no_grad():
        model(input_ids=tiny.text(20), **cache.argument)
        return cache.row
