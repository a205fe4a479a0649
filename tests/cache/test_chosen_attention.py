"""The text part's attention is chosen wherever in the model that part is, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

import prefixkv
from prefixkv.cache import attention
from prefixkv.errors import PrefixKVError
from prefixkv.transformers_compat import cache_argument
from tests import tiny

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWER = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}


def omni() -> Any:
    """A model whose text part is two levels down, at `thinker_config.text_config`."""
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    text = {**SMALL, "num_key_value_heads": 2, "vocab_size": 200, "pad_token_id": 0, "rope_parameters": rope}
    audio = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 32}
    ids = {"image_token_id": 190, "video_token_id": 191, "audio_token_id": 192}
    thinker = {"text_config": text, "vision_config": {**TOWER, "fullatt_block_indexes": [0]}, "audio_config": audio}
    config = Qwen2_5OmniConfig(thinker_config={**thinker, **ids}, enable_audio_output=False)
    return Qwen2_5OmniForConditionalGeneration(config).eval()


def implementations(model: Any) -> dict[str, str]:
    """What each part with a configuration of its own attends by."""
    found = {name: getattr(part, "config", None) for name, part in model.named_modules()}
    return {name: config._attn_implementation for name, config in found.items() if config is not None}


def test_text_part_of_an_omni_model_is_chosen_alone_and_put_back() -> None:
    model = omni()
    before, text = implementations(model), model.config.get_text_config(decoder=True)
    with attention.installed(model):
        inside = implementations(model)
        assert text._attn_implementation == attention.NAME
        changed = {name for name in before if inside[name] != before[name]}
        assert changed
        assert all(name.startswith("thinker.model") for name in changed)
    assert implementations(model) == before


@torch.no_grad()
def test_omni_model_reads_into_a_compressed_cache() -> None:
    model, ids = omni(), tiny.text(40)
    expected = model.thinker(input_ids=ids).logits
    with prefixkv.compress(model, "100%", "full") as cache:
        assert model.thinker(input_ids=ids, **cache_argument(cache)).logits.equal(expected)
    with prefixkv.compress(model, "30%", "h2o") as cache:
        model.thinker(input_ids=ids, **cache_argument(cache))
        assert [layer.kept_tokens for layer in cache.usage().layers] == [12, 12]


def test_model_whose_attention_is_nobodys_to_choose_is_refused() -> None:
    model = tiny.llama()
    model.config = type(model.config)(**model.config.to_dict())
    model.config.get_text_config = lambda decoder=False: type(model.config)()
    with pytest.raises(PrefixKVError, match="attention be chosen"), attention.installed(model):
        pass
