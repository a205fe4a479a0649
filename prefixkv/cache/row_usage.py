"""What one row holds at a moment, counted as budgets count it and read off the tensors that exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefixkv.cache.states import held_bytes, state_tensors
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.cache.windows import window_bytes
from prefixkv.kernels.packed_row import mean_bits as mean_of_pair
from prefixkv.models.geometry import COUNTED_BYTES
from prefixkv.policy.codec import stored_name
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import FINE_OF

if TYPE_CHECKING:
    from prefixkv.cache.row import CacheRow


def usage_of(row: CacheRow) -> CacheUsage:
    """What is stored now, against a 16-bit cache of the same tokens."""
    layers = layer_usages(row)
    full = sum(layer.seen_tokens for layer in layers) * row.geometry.counted_bytes
    allocated, left = allocated_bytes(row), left_bytes(row)
    name = stored_name(row.bits, any(layer.fine_tokens for layer in layers))
    return CacheUsage.of(layers, full, allocated, mean_bits(row, layers), name, left)


def layer_usages(row: CacheRow) -> tuple[LayerUsage, ...]:
    """What each layer stores, from counts alone: no tensor is looked at."""
    geometry, layers = row.geometry, []
    for index, layer in enumerate(row.layers):
        stored = layer.kept_tokens * EntrySize.of(geometry, layer.bits).counted
        fine = layer.fine.kept_tokens
        if fine:
            stored += fine * EntrySize.of(geometry, layer.fine.bits).counted
        layers.append(LayerUsage(index, layer.seen_tokens, layer.stored_tokens, stored, fine))
    return tuple(layers)


def mean_bits(row: CacheRow, layers: Sequence[LayerUsage]) -> float:
    """Bits of an element as budgets count it, the mean over all entries.

    Args:
        row: whose entries.
        layers: what `layer_usages` says of it.
    """
    bits = 8 * COUNTED_BYTES if row.bits is None else mean_of_pair(row.bits)
    fine, kept = (sum(getattr(layer, name) for layer in layers) for name in ("fine_tokens", "kept_tokens"))
    return bits + (mean_of_pair(FINE_OF[row.bits or 0]) - bits) * fine / kept if fine else bits


def allocated_bytes(row: CacheRow) -> int:
    """Bytes of all tensors that a row holds: entries, what is noted of them, queues, windows and marks."""
    return sum(allocated_by_device(row).values())


def allocated_by_device(row: CacheRow) -> dict[str, int]:
    """The same for each device, by its name."""
    held = [tensor for layer in row.layers for tensor in layer.tensors]
    held += [tensor for tensor in (row.is_text, row.next_positions) if tensor is not None]
    sizes = {(str(tensor.device), tensor.untyped_storage().data_ptr()): tensor.untyped_storage() for tensor in held}
    found = Counter[str]()
    for (device, _), storage in sizes.items():
        found[device] += storage.nbytes()
    for window in row.windows.values():
        if window.keys is not None:
            found[str(window.keys.device)] += window_bytes(window)
    for state in state_tensors(row.states).values():
        found[str(state.device)] += state.nbytes
    return dict(found)


def left_bytes(row: CacheRow) -> int:
    """Bytes that the layers which are left alone hold for a row: windows and states."""
    return sum(map(window_bytes, row.windows.values())) + held_bytes(row.states)
