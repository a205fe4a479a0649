"""What can be known of a model before its weights are loaded: its cache, its pictures, its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.families import FAMILIES, Family
from prefixkv.models.files import identity_of, read_config, weight_bytes
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import Notify
from prefixkv.models.names import ALIASES, source_of
from prefixkv.models.shapes import SHAPES

PICTURES = ((336, 336), (640, 480), (1920, 1080))
"""Sizes for which the tokens of a picture are counted, width and height in pixels."""


@dataclass(frozen=True)
class ModelFacts:
    """A model, without its weights.

    Attributes:
        identity: its name, revision and cache geometry.
        model_type: transformers' name of the family; None where only built-in figures were at hand.
        family: what is known of the family; None for one that the tests do not run.
        query_heads: heads of a layer's queries; None where only built-in figures were at hand.
        context_tokens: longest text that it was trained for; None where the configuration does not say.
        weight_bytes: size of the weights as published; None where it is not known.
        picture_tokens: for each size, width and height in pixels, the tokens that hold a picture; empty for a model
            that reads none, or whose processor cannot be had.
    """

    identity: ModelIdentity
    model_type: str | None
    family: Family | None
    query_heads: int | None
    context_tokens: int | None
    weight_bytes: int | None
    picture_tokens: dict[tuple[int, int], int]

    @property
    def geometry(self) -> KVGeometry:
        """Shape of the cache."""
        return self.identity.geometry

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "model": self.identity.id,
            "revision": self.identity.revision,
            "model_type": self.model_type,
            "family": self.family.name if self.family else None,
            "kv": self.geometry.as_dict() | {"query_heads": self.query_heads},
            "entry_bytes": self.geometry.entry_bytes,
            "token_bytes": self.geometry.token_bytes,
            "window_bytes": self.geometry.window_bytes,
            "context_tokens": self.context_tokens,
            "weight_bytes": self.weight_bytes,
            "picture_tokens": {f"{width}x{height}": count for (width, height), count in self.picture_tokens.items()},
        }


def model_facts(
    name: str, pictures: Sequence[tuple[int, int]] = PICTURES, notify: Notify = lambda text: None
) -> ModelFacts:
    """Read a model's configuration and processor; no weights.

    Args:
        name: an alias, a hub id or a folder.
        pictures: sizes in pixels, width and height.
        notify: called with one line for each thing that cannot be had.

    Raises:
        PrefixKVError: the configuration cannot be had, or the model cannot be compressed.
    """
    wanted = ALIASES.get(name, name)
    try:
        config = read_config(wanted)
    except PrefixKVError as error:
        if wanted not in SHAPES:
            raise
        notify(f"{error}; these are the built-in figures")
        shape = SHAPES[wanted]
        identity = ModelIdentity(wanted, None, shape.geometry, None)
        return ModelFacts(identity, None, None, None, shape.context_tokens, weight_bytes(wanted), {})
    identity, text = identity_of(wanted, config), config.get_text_config(decoder=True)
    return ModelFacts(
        identity,
        config.model_type,
        _family(wanted, config.model_type),
        text.num_attention_heads,
        getattr(text, "max_position_embeddings", None),
        _weight_bytes(wanted, notify),
        _picture_tokens(wanted, config, pictures, notify),
    )


def _family(name: str, model_type: str) -> Family | None:
    """The family of that example, else the first of that type."""
    alike = [family for family in FAMILIES if model_type in family.model_types]
    return next((family for family in alike if family.example == name), alike[0] if alike else None)


def _weight_bytes(name: str, notify: Notify) -> int | None:
    try:
        return weight_bytes(name)
    except PrefixKVError as error:
        notify(str(error))
        return None


def _picture_tokens(
    name: str, config: Any, pictures: Sequence[tuple[int, int]], notify: Notify
) -> dict[tuple[int, int], int]:
    """Tokens that a picture of each size adds to a prompt, counted on the processor's own output."""
    import transformers
    from PIL import Image
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from prefixkv.inputs.prompts import Prompt, Turn

    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return {}
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    try:
        processor = transformers.AutoProcessor.from_pretrained(source_of(name))
        counts = {}
        for size in pictures:
            prompt = Prompt(processor, [Turn("What is this?", (Image.new("RGB", size, "grey"),))])
            counts[size] = prompt.inputs["input_ids"].flatten().tolist().count(token)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        notify(f"tokens of a picture are not known: {' '.join(str(error).split())[:200]}")
        return {}
    return counts
