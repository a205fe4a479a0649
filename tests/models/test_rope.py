"""Where rotary positions are applied by our own arithmetic, they are the model's own, for every kind that is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2_5_VLTextConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl

from prefixkv.cache import attention
from prefixkv.cache.fused_layers import FusedLayer, fused_layers
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.kernels.rotary import rotary
from prefixkv.models.decoder_weights import FIXED_ROTARY, DecoderWeights, UnknownDecoderError
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.rotary import Rotation
from prefixkv.transformers_compat import cache_argument
from tests import tiny

HEADS, HEAD_DIM, ORIGINAL = 4, 16, 32
BEYOND = {"factor": 4.0, "original_max_position_embeddings": ORIGINAL}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": BEYOND | {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.2},
    "llama3": BEYOND | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": BEYOND | {"short_factor": [1.0] * (HEAD_DIM // 2), "long_factor": [4.0] * (HEAD_DIM // 2)},
}
POSITIONS = (0, 1, 31, 32, 700, 8000)
"""On both sides of the length that the longer kinds were trained for first."""

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def model_of(kind: str, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        max_position_embeddings=ORIGINAL * 4 if kind != "dynamic" else ORIGINAL,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **SETTINGS[kind]},
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def random_heads(dtype: torch.dtype, heads: int = HEADS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(1, heads, len(POSITIONS), HEAD_DIM, generator=generator).to(dtype)


def our_rotation(query: torch.Tensor, key: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> list[Any]:
    """Our arithmetic on heads in transformers' layout."""
    rows = [part[0].transpose(0, 1).reshape(len(POSITIONS), -1) for part in (query, key)]
    turned = rotary(*rows, cosine[None], sine[None])
    return [part.view(1, len(POSITIONS), -1, HEAD_DIM).transpose(1, 2) for part in turned]


def test_every_kind_of_the_installed_transformers_is_decided_upon() -> None:
    """A kind that depends on the length read so far must not be taken: the angles of a captured step are fixed."""
    undecided = set(ROPE_INIT_FUNCTIONS) - SETTINGS.keys() - {"proportional"}
    assert not undecided
    assert {"dynamic", "longrope", "proportional"}.isdisjoint(FIXED_ROTARY)


@dtypes
@pytest.mark.parametrize("kind", SETTINGS)
def test_angles_and_rotation_are_the_models_own_or_the_kind_is_refused(kind: str, dtype: torch.dtype) -> None:
    model, positions = model_of(kind, dtype), torch.tensor(POSITIONS)
    if kind not in FIXED_ROTARY:
        with pytest.raises(UnknownDecoderError, match=f"positions are {kind}"):
            DecoderWeights.of(model)
        return
    query, key = random_heads(dtype), random_heads(dtype, 2)
    own = modeling_llama.apply_rotary_pos_emb(query, key, *model.model.rotary_emb(query, positions[None]))
    cosine, sine = DecoderWeights.of(model).angles(positions)
    assert cosine.dtype == dtype
    assert all(mine.equal(theirs) for mine, theirs in zip(our_rotation(query, key, cosine, sine), own, strict=True))


@dtypes
def test_positions_with_three_axes_are_the_models_own(dtype: torch.dtype) -> None:
    section = [4, 2, 2]
    config = Qwen2_5_VLTextConfig(
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
    )
    module = modeling_qwen2_5_vl.Qwen2_5_VLRotaryEmbedding(config)
    query, key, positions = random_heads(dtype), random_heads(dtype, 2), torch.tensor(POSITIONS)
    angles = module(query, positions.expand(3, 1, -1))
    own = modeling_qwen2_5_vl.apply_rotary_pos_emb(query, key, *angles)
    weights = object.__new__(DecoderWeights)
    object.__setattr__(weights, "rotary", {positions.device: module})
    object.__setattr__(weights, "embedding", query[0, 0])
    mine = our_rotation(query, key, *weights.angles(positions))
    assert all(part.equal(other) for part, other in zip(mine, own, strict=True))


@pytest.mark.parametrize("kind", sorted(SETTINGS.keys() & FIXED_ROTARY))
def test_fused_layers_read_a_prompt_beyond_the_first_length_as_the_model_does(kind: str) -> None:
    model, ids = model_of(kind, torch.float32), tiny.text(3 * ORIGINAL)
    cache = PrefixKVCache(KVGeometry.of(model.config, "float32"), "30%", "h2o")
    with torch.no_grad():
        expected = model(ids).logits
        with attention.installed(model), fused_layers(model, attention.attend, anywhere=True):
            assert isinstance(model.model.layers[0].forward, FusedLayer)
            found = model(ids, **cache_argument(cache)).logits
    assert torch.allclose(found, expected, atol=1e-5)


@dtypes
@pytest.mark.parametrize("kind", SETTINGS)
def test_look_ahead_queries_are_turned_as_the_model_turns_them(kind: str, dtype: torch.dtype) -> None:
    model, positions = model_of(kind, dtype), torch.tensor(POSITIONS)
    query = random_heads(dtype)
    exact = query.float()
    own = modeling_llama.apply_rotary_pos_emb(exact, exact, *model.model.rotary_emb(exact, positions[None]))[0]
    rotation = Rotation(model)
    turned = rotation.turn(query[0], positions)
    assert turned.dtype == dtype
    assert turned.equal(own[0].to(dtype))
    back = rotation.turn(rotation.turn(exact[0], positions), positions, back=True)
    assert torch.allclose(back, exact[0], atol=1e-4)
    if kind in FIXED_ROTARY:
        further = rotation.advance(rotation.turn(exact[0], positions), torch.full_like(positions, 5))
        assert torch.allclose(further, rotation.turn(exact[0], positions + 5), atol=1e-3)
