"""Configurations whose layers differ, keep states, or read other layers' keys: a shape, or one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from prefixkv.cache.row import CacheRow
from prefixkv.errors import BudgetTooSmallError, OptionError, PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.entry_size import PLACE_BYTES, EntrySize
from prefixkv.transformers_compat import LayersDifferError, setting
from tests.cli.program import run_here

SMALL: dict[str, Any] = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}


def gemma4(**changes: Any) -> Any:
    return AutoConfig.for_model("gemma4_text", **SMALL, **changes)


def test_value_that_layers_differ_in_is_none_for_all() -> None:
    config = gemma4()
    with pytest.raises(LayersDifferError, match="head_dim"):
        setting(config, "head_dim")
    assert setting(config, "num_hidden_layers") == 4
    assert setting(config, "no such thing", 7) == 7


def test_heterogeneous_configuration_whose_cache_is_even_is_taken() -> None:
    """Layers may differ in what the cache does not see, such as the width of SwiGLU."""
    config = LlamaConfig(
        num_hidden_layers=3, hidden_size=64, num_attention_heads=4, per_layer_config={1: {"intermediate_size": 40}}
    )
    assert KVGeometry.of(config, "float32") == KVGeometry(3, 4, 16, "float32")
    config.per_layer_config = {1: {"num_key_value_heads": 2}}
    with pytest.raises(PrefixKVError, match="entries of different sizes"):
        KVGeometry.of(config, "float32")


@pytest.mark.parametrize("sharing", [0, 2])
def test_windows_and_full_layers_of_gemma_4_have_sizes_of_their_own(sharing: int, tmp_path: Path) -> None:
    config = gemma4(num_kv_shared_layers=sharing)
    geometry = KVGeometry.of(config, "bfloat16")
    assert (geometry.decoder_layers, geometry.head_dim) == (4, config.per_layer_config[1].head_dim)
    assert geometry.window_entry.key_dim == config.per_layer_config[0].head_dim != geometry.head_dim
    assert geometry.compressed_layers == ((1,) if sharing else (1, 3))
    assert geometry.window_layers == ((0,) if sharing else (0, 2))
    assert geometry.bare_layers == ((2, 3) if sharing else ())
    config.save_pretrained(tmp_path)
    done = run_here("info", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["window_bytes"] == KVGeometry.of(config, "float32").window_bytes
    assert facts["kv"].get("bare_layers", []) == list(geometry.bare_layers)
    assert ("layers without entries" in run_here("info", str(tmp_path)).stdout) == bool(sharing)


def test_states_and_values_of_another_width_are_read_from_the_configuration() -> None:
    hybrid = KVGeometry.of(AutoConfig.for_model("qwen3_5_text"), "bfloat16")
    assert hybrid.compressed_layers == tuple(range(3, hybrid.decoder_layers, 4))
    assert len(hybrid.state_layers) == 3 * hybrid.layers
    assert hybrid.state_bytes
    assert hybrid.as_dict()["state_layers"] == hybrid.state_layers
    latent = KVGeometry.of(AutoConfig.for_model("deepseek_v3"), "bfloat16")
    assert latent.is_latent
    assert (latent.kv_heads, latent.head_dim, latent.value_dim) == (1, 512, 64)
    assert latent.entry_bytes == (512 + 64) * 2
    chunks = KVGeometry.of(AutoConfig.for_model("llama4_text"), "bfloat16")
    assert chunks.has_chunks
    assert chunks.window_tokens == 8192


def test_limit_in_bytes_holds_states_and_is_refused_where_they_alone_exceed_it() -> None:
    geometry = KVGeometry.of(AutoConfig.for_model("qwen3_5_text"), "bfloat16")
    assert geometry.state_bytes is not None
    size, floor = EntrySize.of(geometry), 2 * geometry.layers
    enough = geometry.state_bytes + floor * size.allocated + PLACE_BYTES
    Budget.parse(f"{enough}B").check_floor(geometry, 2)
    with pytest.raises(BudgetTooSmallError, match="give at least"):
        Budget.parse(f"{enough - 1}B").check_floor(geometry, 2)
    unknown = replace(geometry, state_bytes=None)
    with pytest.raises(OptionError, match="give a share"):
        CacheRow(unknown, "4GB", "prefixkv")


@pytest.mark.exhaustive
def test_every_kind_of_model_that_transformers_knows_gets_a_shape_or_one_line() -> None:
    kinds = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})
    taken: list[str] = []
    refused: list[tuple[str, str]] = []
    for kind in kinds:
        try:
            config = AutoConfig.for_model(kind)
        except Exception:  # A few have no configuration without arguments.
            continue
        try:
            ModelIdentity.of(kind, config, "float32")
            taken.append(kind)
        except PrefixKVError as error:
            refused.append((kind, str(error)))
    assert {"llava", "qwen2_5_vl", "gemma3", "llama"} <= set(taken)
    assert {"gemma4", "deepseek_v3", "qwen3_5", "llama4", "gemma3n"} <= set(taken)
    assert {"mllama", "mamba", "diffusion_gemma"} <= set(dict(refused))
    assert not [line for _, line in refused if "\n" in line]
    assert len(taken) + len(refused) >= 0.95 * len(kinds)
