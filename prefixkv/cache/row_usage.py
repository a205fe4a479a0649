"""What one row holds at a moment, counted as budgets count it and read off the tensors that exist."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from prefixkv.cache.states import held_bytes, state_tensors
from prefixkv.cache.usage import CacheUsage, LayerUsage
from prefixkv.cache.windows import window_bytes
from prefixkv.models.geometry import COUNTED_BYTES
from prefixkv.policy.codec import stored_name
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import FINE_RUN_BITS

if TYPE_CHECKING:
    from prefixkv.cache.row import CacheRow


def usage_of(row: CacheRow) -> CacheUsage:
    """What is stored now, against a 16-bit cache of the same tokens."""
    geometry, layers = row.geometry, []
    for index, layer in enumerate(row.layers):
        stored = layer.kept_tokens * EntrySize.of(geometry, layer.bits).counted
        fine = layer.fine.kept_tokens
        stored += fine * EntrySize.of(geometry, layer.fine.bits).counted
        layers.append(LayerUsage(index, layer.seen_tokens, layer.stored_tokens, stored, fine))
    full = sum(layer.seen_tokens for layer in layers) * geometry.counted_bytes
    bits: float = row.bits or 8 * COUNTED_BYTES
    fine, kept = (sum(getattr(layer, name) for layer in layers) for name in ("fine_tokens", "kept_tokens"))
    if fine:
        bits += (FINE_RUN_BITS - bits) * fine / kept
    allocated, left = allocated_bytes(row), left_bytes(row)
    return CacheUsage.of(tuple(layers), full, allocated, bits, stored_name(row.bits, fine > 0), left)


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
