"""The weights of a Llama-like decoder, read off a transformers model. The one file that knows its module tree.

A decoder is Llama-like where every layer is: RMSNorm, query, key and value projections (with or without bias), rotary
positions, attention, output projection, residual; RMSNorm, SwiGLU, residual. Weights are used where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from prefixkv.errors import PrefixKVError
from prefixkv.kernels.linear import Weight
from prefixkv.transformers_compat import decoder_of, is_capturing_hook

LLAMA_LIKE = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen2VLDecoderLayer",
    "Qwen2_5_VLDecoderLayer",
}
"""Decoder layers of transformers that compute exactly this."""
FIXED_ROTARY = {"default", "linear", "llama3", "yarn", "mrope"}
"""Rotary positions whose frequencies do not depend on the length."""


class UnknownDecoderError(PrefixKVError):
    """A model's decoder is of another kind; the message says in which way, as what follows "because"."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer.

    Attributes:
        input_gain: (hidden,), of the norm before attention.
        projections: query, key, value.
        output: behind attention.
        inner_gain: (hidden,), of the norm before SwiGLU.
        gate: (inner, hidden).
        up: (inner, hidden).
        down: back to hidden.
        epsilon: of both norms.
        scale: factor on the dot products.
    """

    input_gain: torch.Tensor
    projections: tuple[Weight, Weight, Weight]
    output: Weight
    inner_gain: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: Weight
    epsilon: float
    scale: float

    def tensors(self) -> list[torch.Tensor]:
        """All of them."""
        weights = (*self.projections, self.output, self.down)
        found = [part for weight in weights for part in weight if part is not None]
        return [self.input_gain, self.inner_gain, self.gate, self.up, *found]


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder with its embedding and its head.

    Attributes:
        embedding: (vocabulary, hidden).
        layers: in order.
        final_gain: (hidden,), of the norm before the head.
        head: to the vocabulary.
        epsilon: of the final norm.
        rotary: the model's own module of angles, on each device where there are layers.
        head_dim: of each query, key and value head.
    """

    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    final_gain: torch.Tensor
    head: Weight
    epsilon: float
    rotary: Mapping[torch.device, Any]
    head_dim: int

    @classmethod
    def of(cls, model: Any) -> DecoderWeights:
        """Read the weights.

        Args:
            model: a language or vision-language model of transformers.

        Raises:
            UnknownDecoderError: something in it is different.
        """
        decoder, head = decoder_of(model), model.get_output_embeddings()
        _require(hasattr(decoder, "layers") and hasattr(decoder, "rotary_emb"), "its decoder has another structure")
        require_unhooked(decoder)
        # First, since other kinds of layers name their settings otherwise.
        layers = tuple(_layer(layer) for layer in decoder.layers)
        config = decoder.config
        _require(config.hidden_act == "silu", f"its activation is {config.hidden_act}")
        _require(decoder.rotary_emb.rope_type in FIXED_ROTARY, f"its positions are {decoder.rotary_emb.rope_type}")
        _require(type(decoder.embed_tokens) is torch.nn.Embedding, "its embedding is changed")
        devices = {layer.gate.device for layer in layers} | {decoder.embed_tokens.weight.device}
        weights = cls(
            decoder.embed_tokens.weight,
            layers,
            decoder.norm.weight,
            _linear(head),
            decoder.norm.variance_epsilon,
            {device: _rotary_on(decoder.rotary_emb, device) for device in devices},
            layers[0].projections[0][0].shape[0] // config.num_attention_heads,
        )
        tensors = weights.tensors()
        _require(not any(hasattr(tensor, "placements") for tensor in tensors), "its weights are parts of tensors")
        _require(len({tensor.dtype for tensor in tensors}) == 1, "its weights are in several dtypes")
        kinds = {tensor.device.type for tensor in tensors}
        _require(len(kinds) == 1 and "meta" not in kinds, "some of its weights are kept off the GPU")
        _require(all(tensor.is_contiguous() for tensor in tensors), "its weights are not contiguous")
        parts = map(LayerWeights.tensors, layers)
        _require(all(len({tensor.device for tensor in part}) == 1 for part in parts), "a layer is on several devices")
        angles, _ = weights.angles(torch.zeros(1, dtype=torch.int64, device=tensors[0].device))
        _require(angles.shape[1] == weights.head_dim, "only a part of its heads is rotated")
        return weights

    @property
    def places(self) -> list[torch.device]:
        """Where the embedding is, each layer, and the head."""
        return [self.embedding.device, *(layer.gate.device for layer in self.layers), self.head[0].device]

    def tensors(self) -> list[torch.Tensor]:
        """All weights, in order."""
        first = [self.embedding, self.final_gain, self.head[0]]
        return first + [tensor for layer in self.layers for tensor in layer.tensors()]

    def addresses(self) -> tuple[int, ...]:
        """Where the weights lie: whoever moves or exchanges them changes this."""
        return tuple(tensor.data_ptr() for tensor in self.tensors())

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine of one token for each row.

        Args:
            positions: (batch,), int64, on a device of the weights. All axes of a token behind the prompt have the same
                position.

        Returns:
            (batch, head_dim) each, on that device and in the dtype of the weights.
        """
        rotary, like = self.rotary[positions.device], self.embedding.new_empty(1, device=positions.device)
        positions = positions[:, None]
        if hasattr(rotary, "mrope_section"):
            positions = positions.expand(3, -1, -1)
        # Not by its own `forward`, for which accelerate may have others move what it is given.
        cosine, sine = type(rotary).forward(rotary, like, positions)
        return cosine.reshape(-1, *cosine.shape[-3:])[0][:, 0], sine.reshape(-1, *sine.shape[-3:])[0][:, 0]


def _rotary_on(rotary: Any, device: torch.device) -> Any:
    """A module of angles with its frequencies on a device: itself where they are there, else a copy."""
    if all(buffer.device == device for buffer in rotary.buffers()):
        return rotary
    moved = copy.copy(rotary)
    moved._buffers = {name: buffer.to(device) for name, buffer in rotary.named_buffers()}
    return moved


def require_unhooked(decoder: Any) -> None:
    """Refuse a decoder whose modules do more, or something else, than their class says.

    Raises:
        UnknownDecoderError: one of them has a hook, or another forward pass.
    """
    for module in decoder.modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        hooked = not all(is_capturing_hook(hook) or getattr(hook, "computes_the_same", False) for hook in hooks)
        forward = vars(module).get("forward")
        patched = forward is not None and not getattr(forward, "computes_the_same", hasattr(module, "_hf_hook"))
        _require(not hooked and not patched, f"its {type(module).__name__} has a hook")


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise UnknownDecoderError(reason)


def _linear(module: Any) -> Weight:
    _require(type(module) is torch.nn.Linear, f"a {type(module).__name__} stands for a linear layer")
    return module.weight, module.bias


def _layer(module: Any) -> LayerWeights:
    _require(type(module).__name__ in LLAMA_LIKE, f"its layers are {type(module).__name__}")
    attention, inner, norm = module.self_attn, module.mlp, module.input_layernorm
    projections = (_linear(attention.q_proj), _linear(attention.k_proj), _linear(attention.v_proj))
    gate, up = _linear(inner.gate_proj), _linear(inner.up_proj)
    _require(gate[1] is None and up[1] is None, "its SwiGLU has biases")
    _require(len({bias is None for _, bias in projections}) == 1, "only some of its projections have a bias")
    return LayerWeights(
        norm.weight,
        projections,
        _linear(attention.o_proj),
        module.post_attention_layernorm.weight,
        gate[0],
        up[0],
        _linear(inner.down_proj),
        norm.variance_epsilon,
        attention.scaling,
    )
