"""Configurations whose layers differ, and those whose layers share keys: one line, never an internal error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import load_model
from prefixkv.transformers_compat import LayersDifferError, setting, shares_keys
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
    with pytest.raises(PrefixKVError, match="num_key_value_heads"):
        KVGeometry.of(config, "float32")


@pytest.mark.parametrize("sharing", [0, 2])
def test_gemma_4_is_refused_in_one_line(sharing: int, tmp_path: Path) -> None:
    gemma4(num_kv_shared_layers=sharing).save_pretrained(tmp_path)
    reason = "another layer's cache" if sharing else "its layers differ in head_dim"
    done = run_here("info", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    note, error = done.stderr.splitlines()
    assert note.startswith("note: ")
    assert "gemma4_text models cannot be compressed" in error
    assert reason in error
    with pytest.raises(PrefixKVError, match=reason):
        load_model(str(tmp_path), "cpu")


def test_layers_that_share_keys_are_known_by_either_name() -> None:
    assert shares_keys(gemma4(num_kv_shared_layers=2))
    assert not shares_keys(gemma4(num_kv_shared_layers=0))

    class Newer:
        kv_sharing_modes = (None, "store", "reuse")

    class Older:
        num_kv_shared_layers = 2

    assert shares_keys(Newer())
    assert shares_keys(Older())


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
    assert {"gemma4", "mllama", "mamba", "deepseek_v3"} <= set(dict(refused))
    assert not [line for _, line in refused if "\n" in line]
    assert len(taken) + len(refused) >= 0.95 * len(kinds)
