"""Decoder layers in the project's own kernels while a prompt is compressed: the same sums in a third of the launches.

Transformers' modules launch about forty kernels for a layer, most of them small. Where a prompt is short, or the host
slow, launching takes longer than computing; where it is long, each small kernel reads and writes the whole chunk.
A cache that keeps everything is left to transformers, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from prefixkv.kernels.dispatch import (
    normed_linear,
    plain_path_is_wanted,
    residual_linear,
    rotary,
    swiglu_linear,
    triton_obstacle,
)
from prefixkv.models.decoder_weights import DecoderWeights, LayerWeights, UnknownDecoderError
from prefixkv.transformers_compat import cache_in, decoder_of

Attend = Callable[..., tuple[torch.Tensor, None]]
OWN = {"attention_mask", "past_key_values", "cache", "position_embeddings"}
"""Arguments of a layer that are not passed on to its attention."""


class FusedLayer:
    """Stands for a decoder layer's forward pass; what it does not cover goes to the layer's own.

    Deviation from transformers: what attention and SwiGLU add to the residual is rounded once, with the sum.
    """

    computes_the_same = True
    """Told to `prefixkv.models.decoder_weights`, which otherwise takes a changed layer for another kind."""

    def __init__(self, module: Any, weights: LayerWeights, attend: Attend) -> None:
        """Wrap a layer.

        Args:
            module: the decoder layer.
            weights: its weights.
            attend: attention, see `prefixkv.cache.compressed_attention.attend`.
        """
        self._attention, self._weights, self._attend = module.self_attn, weights, attend
        self._plain = vars(module).get("_old_forward", module.forward)

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's output, (batch, tokens, hidden)."""
        cache, angles = cache_in(kwargs), kwargs.get("position_embeddings")
        if args or angles is None or not self._covers(hidden_states, cache, *angles):
            return self._plain(hidden_states, *args, **kwargs)
        layer, (cosine, sine) = self._weights, angles
        batch, tokens, size = hidden_states.shape
        rows = hidden_states.reshape(-1, size)
        query, key, value = normed_linear(rows, layer.input_gain, layer.epsilon, layer.projections)
        query, key = rotary(query, key, cosine, sine)
        query, key, value = (
            part.view(batch, tokens, -1, cosine.shape[-1]).transpose(1, 2) for part in (query, key, value)
        )
        key, value = cache.update(key, value, self._attention.layer_idx)
        others = {name: given for name, given in kwargs.items() if name not in OWN}
        mask = kwargs.get("attention_mask")
        mixed, _ = self._attend(self._attention, query, key, value, mask, scaling=layer.scale, **others)
        del query, key, value
        rows = residual_linear(mixed.reshape(batch * tokens, -1), layer.output, rows)
        del mixed
        inner = swiglu_linear(rows, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
        return residual_linear(inner, layer.down, rows).view(batch, tokens, size)

    def _covers(self, hidden: torch.Tensor, cache: Any, cosine: torch.Tensor, sine: torch.Tensor) -> bool:
        """Whether this is a chunk that is compressed, and no training, precision or graph of someone else's."""
        return (
            not torch.compiler.is_compiling()
            and hidden.shape[1] > 1
            and not getattr(cache, "keeps_all", True)
            and cosine.ndim == sine.ndim == 3
            and hidden.dtype == cosine.dtype == self._weights.gate.dtype
            and hidden.device == self._weights.gate.device
            and not torch.is_grad_enabled()
            and not self._attention.training
            and not torch.is_autocast_enabled(hidden.device.type)
        )


@contextlib.contextmanager
def fused_layers(model: Any, attend: Attend, anywhere: bool = False) -> Iterator[None]:
    """Have a Llama-like decoder on GPUs read compressed prompts in fused layers; others stay as they are.

    PREFIXKV_CAPTURE=0 in the environment leaves it to transformers, as it does with decoding.

    Args:
        model: a language or vision-language model of transformers.
        attend: the attention that its layers are given.
        anywhere: also on a CPU, in plain torch.
    """
    with contextlib.ExitStack() as stack:
        is_fast = model.device.type == "cuda" and triton_obstacle() is None and not plain_path_is_wanted()
        if anywhere or is_fast:
            with contextlib.suppress(UnknownDecoderError):
                weights = DecoderWeights.of(model)
                for module, layer in zip(decoder_of(model).layers, weights.layers, strict=True):
                    _stand_for(module, FusedLayer(module, layer, attend), stack)
        yield


def _stand_for(module: Any, layer: FusedLayer, stack: contextlib.ExitStack) -> None:
    """Put a layer in a module's place, unless another stands there, until the stack is left.

    Of a model over several devices accelerate keeps the module's forward pass behind a hook that brings its arguments
    to the module's device, and so it does with the layer's.
    """
    own = vars(module)
    if "_hf_hook" in own:
        if not isinstance(own["_old_forward"], FusedLayer):
            stack.callback(setattr, module, "_old_forward", own["_old_forward"])
            module._old_forward = layer
    elif "forward" not in own:
        stack.callback(delattr, module, "forward")
        module.forward = layer
