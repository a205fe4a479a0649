"""One decode step of any decoder by transformers' own forward pass, whose attention reads the entry table.

What a model computes beside its attention stays its own: mixtures of experts, norms of queries and keys, quantised
weights, adapters. The pass makes no difference between rows and waits for nothing on the host, so it can be captured;
where a model's own code does wait, it cannot.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from prefixkv.cache import hand_off
from prefixkv.cache.hand_off import Attend, HandOff
from prefixkv.cache.refusals import RefusingCache
from prefixkv.decoder.stages import Stage
from prefixkv.decoder.step import SEEN_TOKENS
from prefixkv.kernels.dispatch import decode_attention, next_slots
from prefixkv.kernels.entry_table import WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.models.decoder_weights import UnknownDecoderError, require_unhooked
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import cache_argument, decoder_of, first_position, looks_for_outliers

SIMPLE = (bool, int, float, str, type(None))
"""Types of a module's own settings, by which an adapter is switched on and off."""
WAITING = "its weights in 8 bits look for outliers in every step, which the host waits for; weights in 4 bits do not"
"""Why a model of bitsandbytes' 8-bit layers is not captured, unless its `llm_int8_threshold` is 0."""
AXES = 3
"""Of a position, where a model counts time, height and width apart."""
LEFT_LAYERS = "it has layers that are left alone"
"""Why a model of windows, states or chunks is not captured."""


class ForwardStep:
    """A model's forward pass as a step; see `prefixkv.decoder.step.DecoderStep`.

    Attributes:
        stages: one, on the device where all of the model is.
    """

    def __init__(self, model: Any) -> None:
        """Look at a model.

        Args:
            model: inside `prefixkv.cache.attention.installed` when the step is taken.

        Raises:
            UnknownDecoderError: its forward pass cannot be captured; says why.
        """
        require_unhooked(decoder_of(model))
        if any(looks_for_outliers(module) for module in model.modules()):
            raise UnknownDecoderError(WAITING)
        if len({parameter.device for parameter in model.parameters()}) > 1:
            raise UnknownDecoderError("its weights are on several devices")
        # Who keeps the step keeps it for as long as there is the model.
        self._model, self._dtype = weakref.ref(model), model.dtype
        geometry = KVGeometry.of(model.config, str(model.dtype).removeprefix("torch."))
        if geometry.layers < geometry.decoder_layers:
            raise UnknownDecoderError(LEFT_LAYERS)
        if geometry.is_latent or geometry.value_dim is not None:
            raise UnknownDecoderError("its keys and values are not alike")
        self.stages: Sequence[Stage] = [Stage(model.device, range(geometry.layers), True, True)]
        self._heads, self._head_dim = geometry.kv_heads, geometry.head_dim
        self._numbers = {place: number for number, place in enumerate(geometry.compressed_layers)}

    def addresses(self) -> tuple[Any, ...]:
        """Where the weights lie, and what adapters say of themselves: whoever changes either changes this."""
        parts = (decoder_of(self._whole), self._whole.get_output_embeddings())
        tensors = (tensor.data_ptr() for part in parts for tensor in (*part.parameters(), *part.buffers()))
        return (*tensors, *(settings for part in parts for settings in map(_settings, part.modules()) if settings))

    def empty_entry(self, device: torch.device) -> LayerEntries:
        """One entry of zeros in the model's own precision."""
        shape = 2, 1, self._heads, 1, self._head_dim
        keys, values = torch.zeros(shape, dtype=self._dtype, device=device)
        return LayerEntries.zeros(keys, values)

    @property
    def _whole(self) -> Any:
        model = self._model()
        assert model is not None
        return model

    @torch.no_grad()
    def __call__(
        self,
        stage: Stage,
        table: EntryTable,
        given: torch.Tensor,
        offsets: torch.Tensor,
        formats: Sequence[int] = (WHOLE_BITS,),
    ) -> torch.Tensor:
        """As `prefixkv.decoder.step.OwnStep.__call__`; the stage is the whole."""
        model = self._whole
        next_slots(table)
        positions = (table.cells[0, :, SEEN_TOKENS] - 1 + offsets + first_position(model.config))[:, None]
        if any(hasattr(part, "get_rope_index") for part in (model, getattr(model, "model", None))):
            positions = positions.expand(AXES, -1, -1)
        cache = TableCache(table, self._numbers, tuple(formats))
        output = model(
            input_ids=given[:, None], position_ids=positions, use_cache=True, logits_to_keep=1, **cache_argument(cache)
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


class TableCache(RefusingCache):
    """The entry table as transformers' cache for one pass: nothing is taken in before attention does it."""

    def __init__(self, table: EntryTable, numbers: dict[int, int], formats: Sequence[int]) -> None:
        """Make one.

        Args:
            table: says where entries lie.
            numbers: of the table's layers, by their place among all decoder layers.
            formats: the precisions that occur in the table.
        """
        super().__init__(layers=[])
        self._table, self._numbers, self._formats = table, numbers, formats

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Leave word for the attention call, which stores the new entries and reads all.

        Args:
            key_states: (rows, kv_heads, 1, head_dim), after RoPE.
            value_states: same shape.
            layer_idx: number among all decoder layers.
            *args: of no concern.
            **kwargs: of no concern.
        """
        hand_off.leave(key_states, HandOff(rows=partial(self._attend, self._numbers[layer_idx])))
        return key_states, value_states

    def _attend(
        self,
        layer: int,
        attend: Attend,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float | None,
    ) -> torch.Tensor:
        if scale is None:
            raise UnknownDecoderError("its attention is no plain softmax")
        query, key, value = (part[:, :, 0].contiguous() for part in (query, key, value))
        return decode_attention(query, key, value, None, None, scale, self._table, layer, self._formats)[:, None]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Any number but 0: a prompt was read."""
        return 1

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Of a causal mask, which is left away."""
        return 1 + query_length, 0

    @property
    def is_initialized(self) -> bool:
        """A prompt was read."""
        return True


def _settings(module: torch.nn.Module) -> str:
    """What a module that is neither torch's nor transformers' says of itself."""
    if type(module).__module__.startswith(("torch.", "transformers.")):
        return ""
    plain = set(vars(torch.nn.Module()))
    return repr([(name, value) for name, value in vars(module).items() if name not in plain and _is_simple(value)])


def _is_simple(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_simple(part) for part in value.values())
    if isinstance(value, (list, tuple, set)):
        return all(_is_simple(part) for part in value)
    return isinstance(value, SIMPLE)
