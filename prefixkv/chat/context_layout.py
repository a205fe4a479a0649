"""Whether a context's tensors are those that a cache of its model can hold: what `chat` and `contexts show` check.

Follows from the file alone: its head names the model's shape, and the tensors are looked at as bytes. Knows nothing of
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from prefixkv.chat.context_file import read_sealed
from prefixkv.chat.context_pictures import picture_of
from prefixkv.chat.reading import GENERATED, PICTURE, TEXT
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.packed_row import PAIRS, STEP_BYTES, key_bits, packed_size, value_bits
from prefixkv.methods.table import get_method
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec
from prefixkv.policy.precision import FINE_OF
from prefixkv.schemas.field import MOST_TOKENS, parse, shown_text
from prefixkv.schemas.model import ModelSchema

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What safetensors calls the dtypes of a cache."""


@dataclass(frozen=True)
class _Stored:
    """One tensor of the file.

    Attributes:
        dtype: as safetensors names it.
        shape: its sizes.
        data: its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def read_whole(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a context that is unchanged since it was saved and that a model of its shape can go on with.

    Returns:
        Its head and the whole content.

    Raises:
        PrefixKVError: the file is missing, no context, changed, or its tensors fit no cache of its model.
    """
    head, data = read_sealed(path)
    identity = ModelIdentity.read(parse(ModelSchema, head["model"], str(path)))
    try:
        stored = {
            name: _Stored(facts["dtype"], tuple(facts["shape"]), facts["data"])
            for name, facts in safetensors.deserialize(data)
        }
        get_method(head["method"])
        get_codec(head.get("codec", DEFAULT_CODEC))
        budget_of(head)
        _check(head, stored, identity.geometry)
    except (LookupError, TypeError, ValueError, ArithmeticError, safetensors.SafetensorError) as error:
        reason = shown_text(" ".join(str(error).split()))
        raise PrefixKVError(f"context {path} is not whole ({reason}): save it again with `prefixkv save`") from None
    return head, data


STATE_NAMES = ("conv_states", "recurrent_states")
"""The tensors that a layer's state may consist of."""


def state_key(name: str) -> tuple[int, str, int]:
    """The layer's place, the tensor's name and its number in the layer, of what a head calls `PLACE.NAME.NUMBER`."""
    place, tensor, number = name.split(".")
    return int(place), tensor, int(number)


def budget_of(head: Mapping[str, Any]) -> Budget:
    """The budget that a head names."""
    budget = head["budget"]
    return Budget(budget["text"], budget["kind"], Fraction(budget["amount"]))


def _check(head: Mapping[str, Any], stored: Mapping[str, _Stored], geometry: KVGeometry) -> None:
    """Raise a ValueError or KeyError for tensors that no cache of this shape can have."""
    layers, bits, shares = head["layers"], head["bits"], head["keep_fractions"]
    if len(layers) != geometry.layers or len(head["limits"]) not in (0, geometry.layers):
        raise ValueError(f"{len(layers)} layers")
    if shares is not None and len(shares) != geometry.layers:
        raise ValueError(f"{len(shares)} shares for {geometry.layers} layers")
    if not head["limits"] and budget_of(head).is_hard_limit and not get_method(head["method"]).keeps_all:
        raise ValueError("a hard limit, and none for its layers")
    seen = layers[0]["seen_tokens"]
    if any(layer["seen_tokens"] != seen for layer in layers):
        raise ValueError("its layers have read different numbers of tokens")
    codec = get_codec(head.get("codec", DEFAULT_CODEC))
    is_free = codec.is_auto or (codec.is_mixed and bits in FINE_OF)
    if (bits is not None and bits not in PAIRS) or not (is_free or bits == codec.bits):
        raise ValueError(f"entries of {bits} bits")
    widths = _widths(geometry, bits)
    dtype = _DTYPES[geometry.dtype] if bits is None else "U8"
    method = get_method(head["method"])
    # Where all is kept, nothing is chosen, whatever the method.
    choosing = 1 if method.keeps_all or budget_of(head).is_whole else method.choosing_heads(geometry.kv_heads)
    for index, numbers in enumerate(layers):
        fine = _check_fine(index, numbers, stored, geometry, choosing, bits)
        if fine and not is_free:
            raise ValueError(f"layer {index} has entries in two precisions")
        _check_layer(index, numbers, stored, (dtype, geometry.kv_heads, widths), choosing, fine)
    for place, seen_tokens in head["windows"].items():
        keys, values = (stored[f"windows.{place}.{name}"] for name in ("keys", "values"))
        entries = min(seen_tokens, geometry.window_tokens)
        heads, *window_widths = geometry.window_entry
        fits = seen_tokens == seen and int(place) in geometry.window_layers and keys.shape[2] <= entries
        shapes = [(1, heads, *keys.shape[2:3], width) for width in window_widths]
        if not fits or [keys.shape, values.shape] != shapes or {keys.dtype, values.dtype} != {_DTYPES[geometry.dtype]}:
            raise ValueError(f"window layer {place} does not fit its model")
        if not are_finite(keys.data, keys.dtype) or not are_finite(values.data, values.dtype):
            raise ValueError(f"window layer {place} has entries that are no numbers")
    keys_of_states = {name: state_key(name) for name in head.get("states", ())}
    if {place for place, _, _ in keys_of_states.values()} != set(geometry.state_layers):
        raise ValueError("the states of its layers are not all there")
    for key, (place, name, number) in keys_of_states.items():
        tensor = stored[f"states.{key}"]
        fits = place in geometry.state_layers and 0 <= number < geometry.states_each and tensor.shape[:1] == (1,)
        if not fits or name not in STATE_NAMES or not are_finite(tensor.data, tensor.dtype):
            raise ValueError(f"the state of layer {place} does not fit its model")
    _check_reading(head, stored, seen)
    files = [stored[f"pictures.{index}"] for index in range(len(head["pictures"]))]
    for index, (file, facts) in enumerate(zip(files, head["pictures"], strict=True)):
        if file.dtype != "U8":
            raise ValueError(f"picture {index} is none")
        picture_of(bytes(file.data), facts)


def _check_reading(head: Mapping[str, Any], stored: Mapping[str, _Stored], seen_tokens: int) -> None:
    """Check what is told of the tokens and pictures that were read."""
    tokens, kinds = stored["reading.tokens"], stored["reading.kinds"]
    if tokens.shape != kinds.shape or (tokens.dtype, kinds.dtype) != ("I64", "U8"):
        raise ValueError("what was read is not told token by token")
    ids = _numbers(tokens, "<i8")
    if not 0 < ids.size <= seen_tokens or ids.min() < 0 or ids.max() > MOST_TOKENS:
        raise ValueError("what was read are no tokens")
    if _numbers(kinds, "u1").max() > max(TEXT, PICTURE, GENERATED):
        raise ValueError("what was read is of an unknown kind")
    pictures = len(head["pictures"])
    asked = sum(turn["pictures"] for turn in head["turns"])
    if not asked <= head["pictures_read"] <= pictures:
        raise ValueError(f"{head['pictures_read']} pictures are read, of {pictures}, and {asked} were asked about")
    if (places := stored.get("next_positions")) is not None:
        is_one = (places.dtype, places.shape) == ("I64", (1,))
        if not is_one or not 0 < int(_numbers(places, "<i8")[0]) <= seen_tokens:
            raise ValueError(f"the next position does not follow {seen_tokens} tokens")
    if (marks := stored.get("is_text")) is not None:
        is_row = marks.dtype == "BOOL" and len(marks.shape) == 2 and marks.shape[0] == 1
        if not is_row or not 0 < marks.shape[1] <= seen_tokens or _numbers(marks, "u1").max() > 1:
            raise ValueError(f"what is text is not told of the {seen_tokens} tokens read")


def _check_layer(
    index: int,
    numbers: Mapping[str, int],
    stored: Mapping[str, _Stored],
    row: tuple[str, int, tuple[int, ...]],
    choosing: int,
    fine: int,
) -> None:
    """Check one layer.

    Args:
        index: of the layer.
        numbers: that the head has of it.
        stored: all tensors.
        row: dtype of its entries, kv heads, and the elements of a key and of a value.
        choosing: kv heads that choose by themselves.
        fine: entries of its fine run.
    """
    keys, values, positions, importance, window = (
        stored[f"layers.{index}.{name}"] for name in ("keys", "values", "positions", "importance", "window")
    )
    dtype, kv_heads, widths = row
    seen_tokens, anchor_seen, anchor_kept = (numbers[name] for name in ("seen_tokens", "anchor_seen", "anchor_kept"))
    kept = keys.shape[2]
    shapes = [(1, kv_heads, kept, width) for width in widths]
    entries_fit = [keys.shape, values.shape] == shapes and keys.dtype == values.dtype == dtype
    choices_fit = positions.shape == importance.shape == (1, choosing, kept)
    if not entries_fit or not choices_fit or (positions.dtype, importance.dtype) != ("I64", "F32"):
        raise ValueError(f"the tensors of layer {index} do not fit each other")
    if window.dtype != "I64" or not 0 < kept <= seen_tokens - fine:
        raise ValueError(f"the numbers of layer {index} do not fit its tensors")
    slots = _numbers(window, "<i8")
    # The queue that decoding takes slots from: without one, or with one twice, it would run out of them.
    if not slots.size or slots.min() < 0 or slots.max() >= kept or np.unique(slots).size != slots.size:
        raise ValueError(f"the numbers of layer {index} do not fit its tensors")
    if not 0 < anchor_seen <= seen_tokens or not 0 < anchor_kept <= min(anchor_seen, kept):
        raise ValueError(f"the numbers of layer {index} are of no compaction")
    _check_entries(index, (keys, values, positions, importance), widths, seen_tokens)


def _check_fine(
    index: int,
    numbers: Mapping[str, int],
    stored: Mapping[str, _Stored],
    geometry: KVGeometry,
    choosing: int,
    bits: int | None,
) -> int:
    """Check a layer's fine run, if there is one beside its buffer in `bits`, and say how many entries that has."""
    if f"layers.{index}.fine.keys" not in stored:
        return 0
    if bits not in FINE_OF:
        raise ValueError(f"layer {index} has entries in two precisions")
    parts = tuple(stored[f"layers.{index}.fine.{name}"] for name in ("keys", "values", "positions", "importance"))
    keys, values, positions, importance = parts
    widths = _widths(geometry, FINE_OF[bits])
    fine = keys.shape[2]
    fits = [keys.shape, values.shape] == [(1, geometry.kv_heads, fine, width) for width in widths]
    dtypes = [part.dtype for part in parts]
    if not fits or positions.shape != (1, choosing, fine) or positions.shape != importance.shape or not fine:
        raise ValueError(f"the tensors of layer {index} do not fit each other")
    if dtypes != ["U8", "U8", "I64", "F32"]:
        raise ValueError(f"the tensors of layer {index} do not fit each other")
    _check_entries(index, parts, widths, numbers["seen_tokens"])
    return fine


def _widths(geometry: KVGeometry, bits: int | None) -> tuple[int, int]:
    """Elements of a key and of a value, or bytes where they are packed."""
    shape = geometry.shape
    if bits is None:
        return shape.key_dim, shape.value_dim
    return packed_size(shape.key_dim, key_bits(bits)), packed_size(shape.value_dim, value_bits(bits))


def _check_entries(index: int, parts: tuple[_Stored, ...], widths: tuple[int, ...], seen_tokens: int) -> None:
    """Check that a layer's entries are numbers, at positions that were read."""
    keys, values, positions, importance = parts
    places = _numbers(positions, "<i8")
    if not 0 <= places.min() <= places.max() < seen_tokens:
        raise ValueError(f"layer {index} has positions beyond the {seen_tokens} tokens read")
    for name, entries, width in (("keys", keys, widths[0]), ("values", values, widths[1])):
        if not are_finite(entries.data, entries.dtype, width):
            raise ValueError(f"layer {index} has {name} that are no numbers")
    if not are_finite(importance.data, "F32"):
        raise ValueError(f"layer {index} has an importance that is no number")


def are_finite(data: bytes, dtype: str, width: int = 0) -> bool:
    """Whether all numbers of a tensor are: one that is not makes every later answer nonsense.

    Args:
        data: its bytes.
        dtype: as safetensors names it; U8 for packed rows, whose steps are looked at.
        width: bytes of a packed row.
    """
    if dtype == "F32":
        return bool(np.isfinite(np.frombuffer(data, "<f4")).all())
    if dtype == "U8":
        steps = np.frombuffer(data, np.uint8).reshape(-1, width)[:, -STEP_BYTES:]
        return are_finite(steps.tobytes(), "F16")
    # All bits of the exponent are set in what is no number; looking at bits is faster than turning them into floats.
    exponent = 0x7F80 if dtype == "BF16" else 0x7C00
    return not bool(((np.frombuffer(data, "<u2") & exponent) == exponent).any())


def _numbers(tensor: _Stored, dtype: str) -> np.ndarray:
    return np.frombuffer(tensor.data, dtype=dtype)
