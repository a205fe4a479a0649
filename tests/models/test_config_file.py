"""A config.json read by itself says what transformers' own configuration of the same file says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from prefixkv.errors import PrefixKVError
from prefixkv.models.config_file import ConfigFile
from prefixkv.models.decoder_defaults import DECODER_DEFAULTS, TEXT_TYPES
from prefixkv.models.facts import model_facts
from prefixkv.models.families import FAMILIES
from prefixkv.models.files import read_config
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import setting

LISTED = {model_type for family in FAMILIES for model_type in family.model_types}
TYPES = sorted(LISTED & (TEXT_TYPES.keys() | DECODER_DEFAULTS.keys()))
"""Those of which config.json alone is read."""
SMALL = {"num_hidden_layers": 7, "num_attention_heads": 32, "hidden_size": 1024, "sliding_window": 96}


def outcome(config: Any) -> tuple[Any, ...]:
    """What is said of a configuration, a refusal included."""
    text = config.get_text_config(decoder=True)
    said = setting(text, "num_attention_heads"), setting(text, "max_position_embeddings")
    try:
        return (*said, KVGeometry.of(config, "bfloat16"))
    except PrefixKVError as error:
        return (*said, str(error))


def both(folder: Path, content: dict[str, Any]) -> tuple[Any, Any]:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    light = ConfigFile.read(folder / "config.json")
    assert light is not None
    return outcome(light), outcome(AutoConfig.from_pretrained(folder))


def _has_text_part(model_type: str) -> bool:
    return "text_config" in AutoConfig.for_model(model_type).sub_configs


@pytest.mark.parametrize("model_type", TYPES)
def test_what_a_file_leaves_out_is_filled_in_as_transformers_does(model_type: str, tmp_path: Path) -> None:
    inside = {"text_config": {}} if _has_text_part(model_type) else {}
    light, full = both(tmp_path, {"model_type": model_type, **inside})
    assert light == full


@pytest.mark.parametrize("model_type", TYPES)
def test_what_a_file_says_is_read_from_where_it_stands(model_type: str, tmp_path: Path) -> None:
    said = {"text_config": SMALL} if _has_text_part(model_type) else SMALL
    light, full = both(tmp_path, {"model_type": model_type, **said})
    assert light == full
    assert light[0] == 32


@pytest.mark.parametrize("model_type", TYPES)
def test_file_that_transformers_has_written_is_enough(model_type: str, tmp_path: Path) -> None:
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    light, full = both(tmp_path, json.loads((tmp_path / "config.json").read_text(encoding="utf-8")))
    assert light == full


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 5, **SMALL},
        {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0, **SMALL},
        {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 64},
        {"model_type": "gemma3_text", "sliding_window_pattern": 3, "num_hidden_layers": 8},
        {"model_type": "gemma2", "layer_types": ["full_attention"] * 3, "num_hidden_layers": 3},
        {"model_type": "mistral", "sliding_window": None, "head_dim": 96},
        {"model_type": "qwen2_vl", "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2},
        {"model_type": "llava", "text_config": {"model_type": "qwen2", "num_key_value_heads": 4}},
        {"model_type": "mamba"},
    ],
)
def test_windows_heads_and_refusals_are_transformers_own(content: dict[str, Any], tmp_path: Path) -> None:
    if content["model_type"] == "mamba":
        (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(PrefixKVError, match="state of fixed size"):
            KVGeometry.of(ConfigFile.read(tmp_path / "config.json"), "float32")
        return
    light, full = both(tmp_path, content)
    assert light[2] == full[2]


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "phi3", "num_hidden_layers": 4},
        {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 64},
        {"model_type": "gemma3_text", "use_bidirectional_attention": True},
        {"model_type": "mistral3"},
        {"model_type": "deepseek_v3"},
        {"model_type": "llama", "per_layer_config": {"0": {"head_dim": 64}}},
    ],
)
def test_file_that_does_not_say_enough_is_left_to_transformers(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert ConfigFile.read(tmp_path / "config.json") is None


def test_file_of_any_type_that_names_every_size_is_enough(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
    content = {"model_type": "phi3", **sizes, "layer_types": ["full_attention"] * 2, "hidden_size": 256}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    config = ConfigFile.read(tmp_path / "config.json")
    assert KVGeometry.of(config, "float16") == KVGeometry(2, 2, 32, "float16")


@pytest.mark.parametrize("model_type", ["llava", "llava_next", "internvl", "gemma3"])
def test_sizes_that_transformers_reads_past_are_refused(model_type: str, tmp_path: Path) -> None:
    content = {"model_type": model_type, "num_hidden_layers": 40, "hidden_size": 5120, "max_position_embeddings": 4096}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    for read in (model_facts, read_config):
        with pytest.raises(PrefixKVError, match="of another program's layout"):
            read(str(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model_type": "llama", "num_hidden_layers": "many"}', "\ufeff?"])
def test_broken_file_gets_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PrefixKVError) as error:
        ConfigFile.read(tmp_path / "config.json")
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"model_type": "gemma3", "text_config": {}}, {"model_type": "qwen2_vl"}])
def test_info_of_a_folder_loads_neither_torch_nor_transformers(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    check = (
        "import sys; from prefixkv_cli.app import _run\n"
        "assert _run(['info', sys.argv[1], '--json']) == 0\n"
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", check, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model_type"] == content["model_type"]
    assert "give --picture" in done.stderr
