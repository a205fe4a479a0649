"""Which patches of a picture every layer keeps: where the model still looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from prefixkv.chat.conversation import Conversation
from prefixkv.chat.reading import PICTURE
from prefixkv.errors import PrefixKVError
from prefixkv.inputs.prompts import Prompt, Turn


@dataclass(frozen=True)
class KeptPatches:
    """One picture.

    Attributes:
        pixels: (height, width, 3), uint8: the picture as the model has seen it, cut and scaled.
        kept: (layers, rows, columns), float32 in 0 .. 1: share of the kv heads that keep the patch.
        bits: of each layer, in how many an element of what it keeps is stored; None for the model's own precision.
    """

    pixels: np.ndarray
    kept: np.ndarray
    bits: tuple[int | None, ...]


def kept_patches(conversation: Conversation) -> list[KeptPatches]:
    """All pictures that the cache has read, in order.

    Args:
        conversation: between two answers.

    Raises:
        PrefixKVError: there is none, or the model's picture tokens do not lie on a grid that is known: one square for
            each picture, or the grid that the processor names.
    """
    reading, cache = conversation.reading, conversation.cache
    images = [image for turn, _ in conversation.history for image in turn.images] + list(conversation.waiting)
    runs = _runs(reading.kinds)
    if not reading.images or not runs:
        raise PrefixKVError("the cache has read no picture: ask about one first")
    if len(runs) != reading.images:
        raise PrefixKVError(f"pictures of model {conversation.loaded.id!r} are several tiles: they cannot be painted")
    layers = [_kept_share(cache.kept_positions(layer)[0], len(reading.tokens)) for layer in range(len(cache.layers))]
    shares, bits = torch.stack(layers).numpy(), tuple(layer.bits for layer in cache.layers)
    result = []
    for image, (start, stop) in zip(images, runs, strict=False):
        pixels, rows, columns = _as_seen(conversation, image, stop - start)
        result.append(KeptPatches(pixels, shares[:, start:stop].reshape(len(layers), rows, columns), bits))
    return result


def _runs(kinds: bytearray) -> list[tuple[int, int]]:
    """Beginning and end of every stretch of picture tokens."""
    is_picture = np.frombuffer(bytes(kinds), dtype=np.uint8) == PICTURE
    edges = np.flatnonzero(np.diff(is_picture.astype(np.int8), prepend=0, append=0))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _kept_share(positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """(tokens,), float32, from (heads, kept_tokens): share of the heads that keep each token."""
    heads = positions.shape[0]
    # The last token of an answer may be in the cache and not yet in the reading.
    counts = torch.bincount(positions.flatten().cpu(), minlength=tokens)[:tokens]
    return counts.float() / heads


def _as_seen(conversation: Conversation, image: Image.Image, tokens: int) -> tuple[np.ndarray, int, int]:
    """A picture's pixels as the model sees them, and the rows and columns of its tokens."""
    processor: Any = conversation.loaded.processor.image_processor
    inputs = Prompt(conversation.loaded.processor, [Turn("", (image,))]).inputs
    if "image_grid_thw" in inputs:
        merge = processor.merge_size
        _, height, width = inputs["image_grid_thw"][0].tolist()
        rows, columns = height // merge, width // merge
        pixels = np.asarray(image.resize((width * processor.patch_size, height * processor.patch_size)))
    else:
        rows = columns = round(tokens**0.5)
        pixels = _denormalised(inputs["pixel_values"], processor)
    if rows * columns != tokens:
        raise PrefixKVError(
            f"a picture of model {conversation.loaded.id!r} is {tokens} tokens, which are no grid that is known: "
            "it cannot be painted"
        )
    return pixels, rows, columns


def _denormalised(values: torch.Tensor, processor: Any) -> np.ndarray:
    """(height, width, 3), uint8, from the processor's (1, 3, height, width)."""
    mean, deviation = (np.array(numbers)[:, None, None] for numbers in (processor.image_mean, processor.image_std))
    pixels = values[0].float().numpy() * deviation + mean
    return (pixels.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)
