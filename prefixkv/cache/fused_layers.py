"""Decoder layers in the project's own kernels while a prompt is compressed: the same sums in a third of the launches.

Transformers' modules launch about forty kernels for a layer, most of them small. Where a prompt is short, or the host
slow, launching takes longer than computing; where it is long, each small kernel reads and writes the whole chunk.
A cache that keeps everything is left to transformers, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from prefixkv.cache import reading_graphs
from prefixkv.cache.reading_graphs import ReadingGraphs
from prefixkv.kernels.dispatch import (
    normed_linear,
    reads_in_kernels,
    residual_linear,
    rotary,
    swiglu_linear,
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
        batch, tokens, size = hidden_states.shape
        others = {name: given for name, given in kwargs.items() if name not in OWN}
        attend = partial(self._mixed, cache, kwargs.get("attention_mask"), others)
        graphs = reading_graphs.current()
        most = graphs.size(tokens) if graphs is not None and batch == 1 else None
        if graphs is not None and most is not None and graphs.device == hidden_states.device:
            return self._replayed(graphs, most, hidden_states[0], angles, attend)[None]
        rows = hidden_states.reshape(-1, size)
        # Nothing here holds on to what attention gives while the rest is computed.
        return self._behind(attend(angles, *self._projected(rows)), rows).view(batch, tokens, size)

    def _projected(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values of hidden states (rows, hidden), before RoPE, (rows, heads * head_dim)."""
        return normed_linear(rows, self._weights.input_gain, self._weights.epsilon, self._weights.projections)

    def _mixed(
        self,
        cache: Any,
        mask: torch.Tensor | None,
        others: dict[str, Any],
        angles: tuple[torch.Tensor, torch.Tensor],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Attention of what `_projected` gives, the cache taking in the keys and values; (rows, heads * head_dim)."""
        cosine, sine = angles
        tokens, head_dim = cosine.shape[1:]
        query, key = rotary(query, key, cosine, sine)
        query, key, value = (part.view(-1, tokens, part.shape[1] // head_dim, head_dim) for part in (query, key, value))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        key, value = cache.update(key, value, self._attention.layer_idx)
        mixed, _ = self._attend(self._attention, query, key, value, mask, scaling=self._weights.scale, **others)
        return mixed.reshape(-1, mixed.shape[2] * mixed.shape[3])

    def _behind(self, mixed: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What follows attention, (rows, hidden), of its output and of the hidden states before it."""
        layer = self._weights
        rows = residual_linear(mixed, layer.output, rows)
        del mixed
        inner = swiglu_linear(rows, layer.inner_gain, layer.epsilon, layer.gate, layer.up)
        return residual_linear(inner, layer.down, rows)

    def _replayed(
        self,
        graphs: ReadingGraphs,
        most: int,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        attend: Callable[..., torch.Tensor],
    ) -> torch.Tensor:
        """The layer on the graphs' buffers, whose rows behind the prompt's hold what nobody reads.

        Args:
            graphs: of the pass.
            most: rows of the buffers.
            hidden: (tokens, hidden); where they are the output of the layer before, they lie in the buffer.
            angles: of RoPE.
            attend: `_mixed` of this pass.

        Returns:
            (tokens, hidden), in the buffer.
        """
        tokens, place, layer = len(hidden), self._attention.layer_idx, self._weights
        addresses = tuple(weight.data_ptr() for weight in layer.tensors())
        widths = [weight.shape[0] for weight, _ in layer.projections]
        rows = graphs.rows("hidden", most, hidden.shape[1], hidden)
        parts = [graphs.rows(name, most, width, hidden) for name, width in zip("qkv", widths, strict=True)]
        mixed = graphs.rows("mixed", most, layer.output[0].shape[1], hidden)
        if hidden.data_ptr() != rows.data_ptr():
            rows[:tokens].copy_(hidden)

        def project() -> None:
            for part, computed in zip(parts, self._projected(rows), strict=True):
                part.copy_(computed)

        def finish() -> None:
            rows.copy_(self._behind(mixed, rows))

        graphs.run(("projections", place, most), addresses, project)
        query, key, value = (part[:tokens] for part in parts)
        # The cache keeps what it takes in until the prompt is read, and the buffers are written to by the next layer.
        mixed[:tokens].copy_(attend(angles, query, key.clone(), value.clone()))
        graphs.run(("behind attention", place, most), addresses, finish)
        return rows[:tokens]

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
        is_fast = reads_in_kernels(model.device)
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
