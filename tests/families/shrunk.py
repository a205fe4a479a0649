"""A small random model of any type that transformers knows, made from a shrunk configuration of its own class."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
import transformers

from tests.families.type_settings import TYPE_SETTINGS, put_in

SIZES: dict[str, int] = {
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "model_dim": 64,
    "dim_model": 64,
    "emb_dim": 64,
    "embedding_size": 64,
    "intermediate_size": 96,
    "ffn_hidden_size": 96,
    "ffn_dim": 96,
    "n_inner": 96,
    "d_ff": 96,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "moe_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "intermediate_size_mlp": 96,
    "block_ff_dim": 96,
    "dense_intermediate_size": 96,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "head_dim": 16,
    "d_head": 16,
    "d_kv": 16,
    "attention_head_dim": 16,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "zero_expert_num": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "qk_head_dim": 24,
    "v_head_dim": 12,
    "o_lora_rank": 16,
    "o_groups": 2,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_n_heads": 8,
    "n_mamba_heads": 2,
    "mamba_head_dim": 16,
    "mamba_d_head": 16,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
    "mamba_dt_rank": 8,
    "mamba_n_groups": 1,
    "mamba_ngroups": 1,
    "n_groups": 1,
    "ssm_state_size": 16,
    "state_size": 16,
    "time_step_rank": 8,
    "conv_dim": 64,
    "block_dim": 64,
    "lru_width": 64,
    "attention_hidden_size": 64,
    "attention_window_size": 24,
    "sliding_window": 24,
    "attention_chunk_size": 24,
    "local_attention_window": 24,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 512,
    "hidden_size_per_layer_input": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 2,
    "swa_head_dim": 16,
    "adapter_hidden_dim": 16,
    "hc_mult": 2,
    "rotary_dim": 16,
    "swa_kv_lora_rank": 32,
    "swa_q_lora_rank": 24,
    "swa_v_head_dim": 12,
    "max_position_embeddings": 1024,
    "n_positions": 1024,
}
"""Sizes of a small decoder by the names that configurations have for them; each is only ever made smaller."""
VOCABULARY = 110
VOCABULARY_NAMES = ("vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input", "text_vocab_size")
ALL_FULL = {"lfm2", "lfm2_moe"}
"""Types whose class makes all layers full attention where no file says which are convolutions."""
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth", "encoder_layers")
PLAIN_LAYERS, MOST_LAYERS = 4, 12
OUTWARD = ("out", "text_", "lm_", "llm_", "proj", "language_")
"""How names begin of a width that has to be the text part's."""
VISION = ("vision", "image", "audio", "encoder", "speech", "qformer", "sam", "vq", "talker", "code2wav", "protein")


ATTEMPTS = 3
"""Ways in which a small configuration is made, one after the other, until a model can be made of it."""


def small_config(model_type: str, attempt: int = 0) -> Any:
    """A configuration of that type with few and narrow layers, of every kind that the type's own has.

    Args:
        model_type: as transformers' tables have it.
        attempt: 0; 1 without what is None, and without sections for axes; 2 with whole parts beside the text part.
    """
    whole = transformers.AutoConfig.for_model(model_type)
    values = whole.to_dict()
    text = whole.get_text_config(decoder=True)
    path = _path_of(whole, text)
    inner = values
    for name in path:
        inner[name] = _content(inner[name])
        inner = inner[name]
    if attempt < 2:
        _shrink_others(values, path, getattr(text, "hidden_size", None))
    _shrink_text(inner, text)
    if attempt:
        values = _without_nothing(values)
    put_in(values, TYPE_SETTINGS.get(model_type, {}))
    return type(whole).from_dict(values)


def _without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nothing(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None and name != "mrope_section"
    }


def small_model(config: Any, reads_pictures: bool) -> Any:
    """A random model in float32, in evaluation mode.

    Args:
        config: of `small_config`.
        reads_pictures: whether it is one of pictures and text.
    """
    kind = transformers.AutoModelForImageTextToText if reads_pictures else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = kind.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Wider than at a training's start, or all logits are nearly alike.
            if parameter.ndim > 1 and bool(parameter.std() < 0.1):
                parameter.mul_(4)
    settings = model.generation_config
    settings.eos_token_id = settings.forced_eos_token_id = None
    settings.pad_token_id = 0
    return model


def _content(value: Any) -> Any:
    return value if isinstance(value, dict) else value.to_dict()


def _path_of(whole: Any, text: Any) -> list[str]:
    """The names by which one comes from a configuration to its text part."""
    if text is whole:
        return []
    for name in whole.sub_configs:
        part = getattr(whole, name, None)
        if part is text:
            return [name]
        if isinstance(part, transformers.PreTrainedConfig):
            behind = _path_of(part, text)
            if behind:
                return [name, *behind]
    return []


def _shrink_others(values: dict[str, Any], path: list[str], width: int | None) -> None:
    """Fewer layers in what is no text part, whose widths stay but for those that have to be the text part's.

    Args:
        values: changed here.
        path: to the text part.
        width: of the text part, before it was shrunk.
    """
    for name, value in values.items():
        if type(value) is int and value == width and name.startswith(OUTWARD):
            values[name] = SIZES["hidden_size"]
    for name, value in values.items():
        if not isinstance(value, dict):
            continue
        if path and name == path[0]:
            _shrink_others(value, path[1:], width)
        elif any(word in name for word in VISION) or (path and name.endswith("_config")):
            counts = [count for count in LAYER_COUNTS if type(value.get(count)) is int]
            lists = [key for key, each in value.items() if isinstance(each, list) and len(each) > 1]
            for key in lists:
                if key.endswith("feature_layer"):
                    value[key] = [1, 0][: len(value[key])]
            for key in lists:
                if any(len(value[key]) == value[count] for count in counts):
                    value[key] = value[key][:2]
            for count in counts:
                value[count] = min(value[count], 2)
            _shrink_others(value, ["none"], width)


def _shrink_text(values: dict[str, Any], text: Any) -> None:
    """Few and narrow layers in a text part.

    Args:
        values: of the text part, changed here.
        text: the same with the class's own values.
    """
    names = {**text.attribute_map, **{ours: theirs for theirs, ours in text.attribute_map.items()}}
    for name, size in SIZES.items():
        for key in (name, names.get(name)):
            if key in values and type(values[key]) is int and values[key] > size:
                values[key] = size
    for name in VOCABULARY_NAMES:
        if type(values.get(name)) is int:
            values[name] = min(values[name], VOCABULARY)
    heads, groups = text.to_dict().get("num_attention_heads"), values.get("num_key_value_heads")
    if type(groups) is int:
        values["num_key_value_heads"] = 2 if type(heads) is int and groups < heads else min(groups, 4)
    _shorten(values, text)
    _fit_rotation(values, text)
    whole = text.to_dict()
    if whole.get("swa_head_dim") and whole["swa_head_dim"] == (whole.get("qk_nope_head_dim") or 0) + (
        whole.get("qk_rope_head_dim") or 0
    ):
        values["swa_head_dim"] = values["qk_nope_head_dim"] + values["qk_rope_head_dim"]
    if text.model_type in ALL_FULL and "conv" not in (values.get("layer_types") or ()):
        values["layer_types"] = ["conv", "full_attention"] * (PLAIN_LAYERS // 2)
        values["full_attn_idxs"] = list(range(1, PLAIN_LAYERS, 2))
    if "attn_layer_indices" in values and not values["attn_layer_indices"]:
        values["attn_layer_indices"] = [1, 3]
        values.pop("layer_types", None)
    if values.get("n_routed_experts") and values.get("num_experts_per_tok", 2) is None:
        values["num_experts_per_tok"] = 2
    if values.get("head_dim", 0) is None:
        del values["head_dim"]
    for name in [name for name in values if _is_computed(text, name)]:
        del values[name]
    if values.get("mamba_d_ssm") and values.get("mamba_n_heads"):
        values["mamba_d_head"] = values["mamba_d_ssm"] // values["mamba_n_heads"]
    if type(values.get("pad_token_id")) is int:
        values["pad_token_id"] = 0


def _is_computed(text: Any, name: str) -> bool:
    found = getattr(type(text), name, None)
    return isinstance(found, property) and found.fset is None


def _shorten(values: dict[str, Any], text: Any) -> None:
    """As many layers as show every kind of layer twice."""
    lists = {name: list(value) for name, value in values.items() if _is_per_layer(name, value, text)}
    kinds = lists.get("layer_types") or lists.get("layers_block_type")
    count = PLAIN_LAYERS
    if kinds:
        seen: dict[str, int] = {}
        for count, kind in enumerate(kinds, 1):
            seen[kind] = seen.get(kind, 0) + 1
            if count >= PLAIN_LAYERS and len(seen) == len(set(kinds)) and min(seen.values()) > 1:
                break
        count = min(count, MOST_LAYERS)
    for name in LAYER_COUNTS:
        if type(values.get(name)) is int:
            values[name] = min(values[name], count)
    for name, value in lists.items():
        most = SIZES.get(name, 2**62)
        values[name] = [min(each, most) if type(each) is int else each for each in value[:count]]
    if values.get("num_kv_shared_layers"):
        values["num_kv_shared_layers"] = 2
    if isinstance(values.get("per_layer_config"), dict):
        values["per_layer_config"] = {
            place: part for place, part in values["per_layer_config"].items() if int(place) < count
        }
    for name in ("first_k_dense_replace", "first_dense_layers", "num_dense_layers"):
        if type(values.get(name)) is int:
            values[name] = min(values[name], 1)


def _is_per_layer(name: str, value: Any, text: Any) -> bool:
    layers = getattr(text, "num_hidden_layers", None)
    return isinstance(value, (list, tuple)) and type(layers) is int and len(value) == layers and layers > 3


def _modeling_source(text: Any) -> str:
    try:
        return inspect.getsource(importlib.import_module(type(text).__module__.replace("configuration", "modeling")))
    except (ImportError, OSError):
        return ""


def _fit_rotation(values: dict[str, Any], text: Any) -> None:
    """Rotation by axes of a picture, and by factors of long texts, in proportion to the smaller head."""
    if text.to_dict().get("head_dim") == text.to_dict().get("qk_rope_head_dim"):
        values["head_dim"] = values.get("qk_rope_head_dim")
    has_axes = "mrope_section" in _modeling_source(text)
    for name in ("rope_parameters", "rope_scaling"):
        if name == "rope_parameters" and name in values and values[name] is None:
            values[name] = {"rope_type": "default"}
        rope = values.get(name)
        if isinstance(rope, dict) and not any(isinstance(part, dict) for part in rope.values()):
            rope.setdefault("rope_type", "default")
        for part in [rope, *(rope or {}).values()] if isinstance(rope, dict) else []:
            if not isinstance(part, dict):
                continue
            if ("rope_type" in part or "rope_theta" in part) and part.get("rope_theta") is None:
                part["rope_theta"] = 10_000.0
            section = part.get("mrope_section") or ([1, 1, 1] if has_axes and part is rope else None)
            if section:
                head = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
                half = int(head * part.get("partial_rotary_factor", values.get("partial_rotary_factor") or 1.0)) // 2
                other = half // len(section)
                part["mrope_section"] = [half - other * (len(section) - 1), *([other] * (len(section) - 1))]
