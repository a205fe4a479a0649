"""Saved contexts: a conversation with its compressed cache as a file, and back without reading the pictures again.

The file holds the pictures too, so that a conversation that goes on from it can be read again under another budget.
"""

from __future__ import annotations

import json
from array import array
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image

from prefixkv import __version__
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.snapshot import CacheSnapshot, LayerSnapshot, WindowSnapshot
from prefixkv.chat.context_file import DIGEST_KEY, FORMAT, HEAD_KEY, UNSEALED, VERSION, seal
from prefixkv.chat.context_layout import budget_of, read_whole, state_key
from prefixkv.chat.context_pictures import picture_of, png_of
from prefixkv.chat.conversation import Conversation
from prefixkv.chat.conversation_state import ConversationState
from prefixkv.chat.reading import Reading
from prefixkv.documents import write_whole
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.generation.answer import Answer
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.images import picture_sha256
from prefixkv.inputs.prompts import Turn
from prefixkv.inputs.template_args import check_template_args
from prefixkv.methods.table import METHODS
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import LoadedModel, Notify
from prefixkv.models.weight_digest import tensor_digest, weight_digest
from prefixkv.policy.codec import CODECS, DEFAULT_CODEC
from prefixkv.schemas.field import parse, shown, shown_text
from prefixkv.schemas.model import ModelSchema

_ENTRIES = ("keys", "values", "positions", "importance")
_PARTS = (*_ENTRIES, "window")
_OPTIONAL = ("next_positions", "is_text")


def save_context(conversation: Conversation, path: Path, name: str) -> None:
    """Write a conversation, whole or not at all, and read back what was written.

    Args:
        conversation: between two answers.
        path: the file.
        name: what the user calls it.

    Raises:
        PrefixKVError: there is nothing to save, or the place cannot be written, or gives back something else.
    """
    state, cache = conversation.state(), conversation.cache
    if METHODS.get(cache.method.name) != cache.method:
        raise PrefixKVError(f"method {cache.method.name!r} has no name that a file may hold: register it first")
    if cache.codec.name not in CODECS:
        raise PrefixKVError(f"codec {cache.codec.name!r} has no name that a file may hold: use one of `CODECS`")
    if not state.reading.tokens:
        raise PrefixKVError("there is nothing to save yet: ask about a picture first")
    pictures = [*(image for turn in state.turns for image in turn.images), *state.waiting]
    usage = conversation.usage()
    head = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "model": conversation.loaded.identity.as_dict(),
        "weights_sha256": weight_digest(conversation.loaded.model),
        "method": cache.method.name,
        "codec": cache.codec.name,
        "budget": {"text": cache.budget.text, "kind": cache.budget.kind, "amount": str(cache.budget.amount)},
        "keep_fractions": list(cache.keep_fractions) if cache.keep_fractions is not None else None,
        "system": state.system,
        "template_args": dict(state.template_args),
        "turns": [
            {"question": turn.prompt, "pictures": len(turn.images), "answer": asdict(answer)}
            | ({} if turn.layout is None else {"layout": list(turn.layout)})
            for turn, answer in zip(state.turns, state.answers, strict=True)
        ],
        "pictures": [
            {
                "name": str(image.info.get("name", "picture")),
                "sha256": picture_sha256(image),
                "width": image.width,
                "height": image.height,
            }
            for image in pictures
        ],
        "layers": [
            {"seen_tokens": layer.seen_tokens, "anchor_seen": layer.anchor_seen, "anchor_kept": layer.anchor_kept}
            for layer in state.cache.layers
        ],
        "windows": {str(place): window.seen_tokens for place, window in state.cache.windows.items()},
        **({"states": [".".join(map(str, key)) for key in state.cache.states]} if state.cache.states else {}),
        "limits": list(state.cache.limits),
        "bits": state.cache.bits,
        "look_ahead_sha256": _look_ahead_digest(cache),
        "pictures_read": state.reading.images,
        "kept_bytes": usage.kept_bytes,
        "full_bytes": usage.full_bytes,
        "created_by": f"prefixkv {__version__}",
    }
    metadata = {HEAD_KEY: json.dumps(head, allow_nan=False), DIGEST_KEY: UNSEALED}
    write_whole(path, seal(safetensors.torch.save(_tensors(state, pictures), metadata)))
    read_whole(path)


def load_context(
    path: Path, loaded: LoadedModel, sampling: Sampling | None = None, notify: Notify = lambda text: None
) -> Conversation:
    """Go on with a conversation that was saved.

    Args:
        path: the file.
        loaded: the model that it was saved from.
        sampling: as for a new conversation.
        notify: likewise.

    Raises:
        PrefixKVError: the file is missing, no context, changed, or of another model.
    """
    head, data = read_whole(path)
    _require_model(head, loaded, path)
    try:
        state = _state(head, safetensors.torch.load(data))
    except (KeyError, TypeError, ValueError, OptionError) as error:
        reason = shown_text(" ".join(str(error).split()))
        raise PrefixKVError(f"context {path} is not whole ({reason}): save it again with `prefixkv save`") from None
    codec = head.get("codec", DEFAULT_CODEC)
    conversation = Conversation(loaded, budget_of(head), head["method"], sampling, notify, codec=codec)
    conversation.cache.row.keep_fractions = head["keep_fractions"]
    if head.get("look_ahead_sha256") != _look_ahead_digest(conversation.cache):
        notify(f"the profile of {loaded.id!r} is not that with which the context was saved: later turns may differ")
    conversation.resume(state)
    return conversation


def _tensors(state: ConversationState, pictures: list[Image.Image]) -> dict[str, torch.Tensor]:
    tensors = {
        "reading.tokens": torch.tensor(state.reading.tokens, dtype=torch.int64),
        "reading.kinds": torch.tensor(list(state.reading.kinds), dtype=torch.uint8),
    }
    for index, layer in enumerate(state.cache.layers):
        tensors[f"layers.{index}.window"] = layer.window.to(torch.int64)
        for name in _ENTRIES:
            tensors[f"layers.{index}.{name}"] = getattr(layer, name)
        for name, tensor in zip(_ENTRIES, layer.fine, strict=False):
            tensors[f"layers.{index}.fine.{name}"] = tensor
    for place, window in state.cache.windows.items():
        tensors[f"windows.{place}.keys"], tensors[f"windows.{place}.values"] = window.keys, window.values
    for key, tensor in state.cache.states.items():
        tensors[".".join(("states", *map(str, key)))] = tensor
    for name in _OPTIONAL:
        if (tensor := getattr(state.cache, name)) is not None:
            tensors[name] = tensor
    for index, image in enumerate(pictures):
        tensors[f"pictures.{index}"] = torch.frombuffer(bytearray(png_of(image)), dtype=torch.uint8)
    return tensors


def _state(head: dict[str, Any], tensors: dict[str, torch.Tensor]) -> ConversationState:
    layers = []
    for index, numbers in enumerate(head["layers"]):
        keys, values, positions, importance, window = (tensors[f"layers.{index}.{name}"] for name in _PARTS)
        fine = tuple(tensors[name] for part in _ENTRIES if (name := f"layers.{index}.fine.{part}") in tensors)
        layers.append(LayerSnapshot(keys, values, positions, importance, window, **numbers, fine=fine))
    windows = {
        int(place): WindowSnapshot(tensors[f"windows.{place}.keys"], tensors[f"windows.{place}.values"], seen_tokens)
        for place, seen_tokens in head["windows"].items()
    }
    pictures = [
        picture_of(tensors[f"pictures.{index}"].numpy().tobytes(), facts)
        for index, facts in enumerate(head["pictures"])
    ]
    turns = []
    for turn in head["turns"]:
        images, pictures = pictures[: turn["pictures"]], pictures[turn["pictures"] :]
        layout = tuple(turn["layout"]) if turn.get("layout") is not None else None
        if layout is not None and layout.count(None) != len(images):
            raise ValueError(f"a question has places for {layout.count(None)} pictures")
        turns.append(Turn(turn["question"], tuple(images), turn["answer"]["text"], layout))
    answers = tuple(Answer(**turn["answer"]) for turn in head["turns"])
    kinds = bytearray(tensors["reading.kinds"].numpy().tobytes())
    reading = Reading(array("i", tensors["reading.tokens"].tolist()), kinds, head["pictures_read"]).mark()
    optional = {name: tensors.get(name) for name in _OPTIONAL}
    states = {state_key(name): tensors[f"states.{name}"] for name in head.get("states", ())}
    cache = CacheSnapshot(tuple(layers), tuple(head["limits"]), windows, bits=head["bits"], states=states, **optional)
    arguments = check_template_args(head.get("template_args"))
    return ConversationState(head["system"], tuple(turns), answers, tuple(pictures), reading, cache, arguments)


def _look_ahead_digest(cache: PrefixKVCache) -> str | None:
    """Which recorded queries guide the cache; None where none do."""
    if cache.look_ahead is None or not cache.look_ahead.is_recorded:
        return None
    return tensor_digest((f"layer {layer}", queries) for layer, queries in enumerate(cache.look_ahead.queries))


def _require_model(head: dict[str, Any], loaded: LoadedModel, path: Path) -> None:
    saved = ModelIdentity.read(parse(ModelSchema, head["model"], str(path)))
    differences = saved.differences(loaded.identity)
    if saved.geometry.dtype != loaded.geometry.dtype:
        differences.append(f"dtype {saved.geometry.dtype} instead of {loaded.geometry.dtype}")
    if not differences and head.get("weights_sha256") != weight_digest(loaded.model):
        differences.append("other weights")
    if differences:
        raise PrefixKVError(
            f"context {path} is of model {shown(saved.id)}, not of this {loaded.id!r}: "
            f"it has {'; '.join(differences)}; give the model that it was saved from"
        )
