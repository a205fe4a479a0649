"""The forward pass that training uses: the stock model's weights, compiled layers, packed conversations.

It gives what the stock modules give (a test compares them), in bfloat16 on a GPU with a float32 residual stream.
The layers are functions of tensors only, so that one compiled graph serves all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import LlavaForConditionalGeneration

from tools.demo.model import PATCH_PIXELS, PIXEL_MEAN, PIXEL_STD


def _tower_layer(x: Tensor, heads: int, epsilon: float, dtype: torch.dtype, weights: list[Tensor]) -> Tensor:
    n1w, n1b, qw, qb, kw, kb, vw, vb, ow, ob, n2w, n2b, f1w, f1b, f2w, f2b = weights
    batch, tokens, width = x.shape

    def linear(value: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(value, weight.to(dtype), bias.to(dtype))

    def split(value: Tensor) -> Tensor:
        return value.view(batch, tokens, heads, width // heads).transpose(1, 2)

    h = F.layer_norm(x, (width,), n1w, n1b, epsilon).to(dtype)
    q, k, v = split(linear(h, qw, qb)), split(linear(h, kw, kb)), split(linear(h, vw, vb))
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
    x = x + linear(attended, ow, ob).float()
    h = F.layer_norm(x, (width,), n2w, n2b, epsilon).to(dtype)
    h = linear(h, f1w, f1b)
    return x + linear(h * torch.sigmoid(1.702 * h), f2w, f2b).float()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _decoder_layer(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    mask: BlockMask | Tensor,
    head_dim: int,
    epsilon: float,
    dtype: torch.dtype,
    weights: list[Tensor],
) -> Tensor:
    n1, qw, kw, vw, ow, n2, gw, uw, dw = weights
    batch, tokens, width = x.shape

    def split(value: Tensor, weight: Tensor) -> Tensor:
        return F.linear(value, weight.to(dtype)).view(batch, tokens, -1, head_dim).transpose(1, 2)

    h = F.rms_norm(x, (width,), n1, epsilon).to(dtype)
    q, k, v = _rotate(split(h, qw), cos, sin), _rotate(split(h, kw), cos, sin), split(h, vw)
    if isinstance(mask, Tensor):
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    else:
        attended = flex_attention(q, k, v, block_mask=mask, enable_gqa=True)
    attended = attended.transpose(1, 2).reshape(batch, tokens, -1)
    x = x + F.linear(attended, ow.to(dtype)).float()
    h = F.rms_norm(x, (width,), n2, epsilon).to(dtype)
    h = F.silu(F.linear(h, gw.to(dtype))) * F.linear(h, uw.to(dtype))
    return x + F.linear(h, dw.to(dtype)).float()


def _affine(module: Any) -> list[Tensor]:
    return [module.weight, module.bias]


class PackedForward:
    """Runs a LLaVA model on pictures with packed conversations.

    Args:
        model: The stock model; its parameters are used in place.
        dtype: Type of the matrix products; the residual stream stays float32.
        compiled: Compile the layers.
        flex: Use flex attention, which needs compiled layers; else attention with a dense mask.
    """

    def __init__(self, model: LlavaForConditionalGeneration, dtype: torch.dtype, compiled: bool, flex: bool) -> None:
        self.model: Any = model
        self._config: Any = model.config
        self.dtype = dtype
        self.flex = flex
        wrap: Callable[[Any], Any] = (lambda fn: torch.compile(fn, dynamic=False)) if compiled else (lambda fn: fn)
        self._tower_layer = wrap(_tower_layer)
        self._decoder_layer = wrap(_decoder_layer)
        device = model.device
        self._mean = torch.tensor(PIXEL_MEAN, device=device) * 255
        self._std = torch.tensor(PIXEL_STD, device=device) * 255
        text: Any = self._config.text_config
        angles = torch.arange(text.max_position_embeddings, device=device)[:, None].float()
        angles = angles / text.rope_parameters["rope_theta"] ** (
            torch.arange(0, text.head_dim, 2, device=device).float() / text.head_dim
        )
        self._cos, self._sin = angles.cos(), angles.sin()

    def patches(self, images: Tensor) -> Tensor:
        """The vision tower.

        Args:
            images: uint8 (batch, 336, 336, 3).

        Returns:
            float32 (batch, 576, tower width): the hidden state that the projector reads.
        """
        tower = self.model.model.vision_tower
        batch, side = images.shape[0], images.shape[1] // PATCH_PIXELS
        pixels = ((images.float() - self._mean) / self._std).to(self.dtype)
        pixels = pixels.view(batch, side, PATCH_PIXELS, side, PATCH_PIXELS, 3).permute(0, 1, 3, 5, 2, 4)
        weight = tower.embeddings.patch_embedding.weight
        x = F.linear(pixels.reshape(batch, side * side, -1), weight.flatten(1).to(self.dtype)).float()
        x = torch.cat((tower.embeddings.class_embedding.expand(batch, 1, -1), x), dim=1)
        x = tower.pre_layrnorm(x + tower.embeddings.position_embedding.weight)
        config = self._config.vision_config
        for layer in tower.encoder.layers:
            attention = layer.self_attn
            weights = [
                *_affine(layer.layer_norm1),
                *(tensor for name in "qkv" for tensor in _affine(getattr(attention, f"{name}_proj"))),
                *_affine(attention.out_proj),
                *_affine(layer.layer_norm2),
                *_affine(layer.mlp.fc1),
                *_affine(layer.mlp.fc2),
            ]
            x = self._tower_layer(x, config.num_attention_heads, config.layer_norm_eps, self.dtype, weights)
        return x[:, 1:]

    def logits(self, patches: Tensor, prefix: Tensor, tokens: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """Predictions for every token of the packed texts.

        Args:
            patches: float32 (batch, 576, tower width).
            prefix: int64 (prefix length,), image tokens included.
            tokens: int64 (batch, text length).
            segments: int32 (batch, text length), block numbers from 1 on.
            positions: int64 (batch, text length).

        Returns:
            float32 (batch, text length, vocabulary): entry t predicts token t from what comes before it in its place
            in the row, so only entries of tokens with their predecessor in the same block mean anything.
        """
        model = self.model.model
        batch, length = tokens.shape
        image = prefix == self._config.image_token_id
        first, last = int(image.nonzero()[0]), int(image.nonzero()[-1]) + 1
        embedding = model.language_model.embed_tokens.weight
        projector = model.multi_modal_projector
        hidden = F.linear(patches.to(self.dtype), *(part.to(self.dtype) for part in _affine(projector.linear_1)))
        hidden = F.linear(F.gelu(hidden), *(part.to(self.dtype) for part in _affine(projector.linear_2))).float()
        start = F.embedding(prefix, embedding).expand(batch, -1, -1)
        x = torch.cat((start[:, :first], hidden, start[:, last:], F.embedding(tokens, embedding)), dim=1)
        places = torch.cat((torch.arange(len(prefix), device=x.device).expand(batch, -1), positions), dim=1)
        cos, sin = self._cos[places][:, None], self._sin[places][:, None]
        mask = self._mask(F.pad(segments, (len(prefix), 0)))
        config = self._config.text_config
        for layer in model.language_model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            weights = [
                layer.input_layernorm.weight,
                *(getattr(attention, f"{name}_proj").weight for name in "qkvo"),
                layer.post_attention_layernorm.weight,
                *(getattr(mlp, f"{name}_proj").weight for name in ("gate", "up", "down")),
            ]
            x = self._decoder_layer(x, cos, sin, mask, config.head_dim, config.rms_norm_eps, self.dtype, weights)
        x = x[:, len(prefix) - 1 : len(prefix) - 1 + length]
        x = F.rms_norm(x, (x.shape[-1],), model.language_model.norm.weight, config.rms_norm_eps)
        return F.linear(x.to(self.dtype), embedding.to(self.dtype)).float()

    def _mask(self, segments: Tensor) -> BlockMask | Tensor:
        batch, length = segments.shape

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return (q >= k) & ((segments[b, k] == 0) | (segments[b, k] == segments[b, q]))

        if self.flex:
            return create_block_mask(visible, batch, None, length, length, device=segments.device)
        causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
        key, query = segments[:, None, :], segments[:, :, None]
        return (causal & ((key == 0) | (key == query)))[:, None]
