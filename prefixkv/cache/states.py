"""Layers that keep a state of fixed size: transformers' own cache layers, left alone beside the compressed ones.

A model updates the states of a batch in place. Here each row has its own, and those of several rows are parts of one
tensor for as long as the rows are read together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import LinearAttentionLayer

from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import asks_for_states

_TENSORS = {
    "conv_states": "is_conv_states_initialized",
    "recurrent_states": "is_recurrent_states_initialized",
}
"""The tensors of a layer, by the names that say whether each exists."""

States = dict[int, LinearAttentionLayer]
StateTensors = dict[tuple[int, str, int], torch.Tensor]
"""What states hold, by the layer's place, the tensor's name and its number within the layer."""


class HasStates(Protocol):
    """A row, as far as its states are concerned."""

    states: States


def new_states(geometry: KVGeometry) -> States:
    """Empty state layers of one row, by their number among all decoder layers.

    Raises:
        PrefixKVError: there are some, and the installed transformers is too old.
    """
    if geometry.state_layers and not asks_for_states():
        raise PrefixKVError(
            f"{len(geometry.state_layers)} of the model's layers keep a state, which needs a newer transformers: "
            "pip install -U transformers (5.24 is tested)"
        )
    return {place: LinearAttentionLayer(number_of_states=geometry.states_each) for place in geometry.state_layers}


def state_tensors(states: States) -> StateTensors:
    """All tensors that states hold; not copied."""
    return {
        (place, name, number): tensor
        for place, layer in states.items()
        for name in _TENSORS
        for number, tensor in getattr(layer, name).items()
        if tensor is not None
    }


def held_bytes(states: States) -> int:
    """Bytes of one row's states, which may be a part of a larger tensor."""
    return sum(tensor.nbytes for tensor in state_tensors(states).values())


def fill_states(states: States, tensors: Mapping[tuple[int, str, int], torch.Tensor]) -> None:
    """Give empty states what `state_tensors` returned of others.

    Args:
        states: of a row that has read nothing.
        tensors: each becomes a part of the states, and will be written to.
    """
    for (place, name, number), tensor in tensors.items():
        _set(states[place], name, number, tensor)


def _set(layer: Any, name: str, number: int, tensor: torch.Tensor) -> None:
    getattr(layer, name)[number] = tensor
    getattr(layer, _TENSORS[name])[number] = layer.has_previous_state[number] = True
    layer.device = tensor.device
    if name == "conv_states":
        layer.dtype = tensor.dtype
        layer.conv_kernel_size[number] = tensor.shape[-1]


class RowStates:
    """The states of rows that are read together, as a model of transformers updates them."""

    def __init__(self, rows: Sequence[HasStates]) -> None:
        """Take the rows.

        Args:
            rows: one for each row of the batch.
        """
        self._rows = rows
        self._joined: States = {}
        self._parts: dict[int, list[LinearAttentionLayer]] = {}

    def __getitem__(self, place: int) -> LinearAttentionLayer:
        """The state of one layer, of all rows: the only row's own, or one that the rows' are parts of."""
        if len(self._rows) == 1:
            return self._rows[0].states[place]
        parts = [row.states[place] for row in self._rows]
        known = self._parts.get(place)
        if known is None or any(part is not other for part, other in zip(parts, known, strict=True)):
            self._joined[place] = _joined(parts)
            self.share(place)
        return self._joined[place]

    def share(self, place: int) -> None:
        """Give each row its part of what a layer holds now."""
        if len(self._rows) == 1:
            return
        whole, parts = self._joined[place], []
        for index, row in enumerate(self._rows):
            part = LinearAttentionLayer(number_of_states=whole.number_of_states)
            for name in _TENSORS:
                for number, tensor in getattr(whole, name).items():
                    if tensor is not None:
                        _set(part, name, number, tensor[index : index + 1])
            row.states[place] = part
            parts.append(part)
        self._parts[place] = parts


def _joined(parts: Sequence[LinearAttentionLayer]) -> LinearAttentionLayer:
    """One layer for all rows, with tensors of its own."""
    whole = LinearAttentionLayer(number_of_states=parts[0].number_of_states)
    for name in _TENSORS:
        for number in range(whole.number_of_states):
            found = [getattr(part, name)[number] for part in parts]
            tensors = [tensor for tensor in found if tensor is not None]
            if tensors and len(tensors) < len(parts):
                raise PrefixKVError("rows that have read something cannot be read together with rows that have not")
            if tensors:
                _set(whole, name, number, torch.cat([tensor.to(tensors[0].device) for tensor in tensors]))
    return whole
