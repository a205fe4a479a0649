"""What can be known of a model before its weights are loaded: its cache, its pictures, its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.config_file import ConfigFile, commit_of, config_path, published_dtype
from prefixkv.models.download import Part, bring
from prefixkv.models.families import FAMILIES, Family
from prefixkv.models.files import read_config, weight_bytes
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.lfs_pointers import refuse_pointers
from prefixkv.models.loading import Notify
from prefixkv.models.names import check_model_name, folder_notice, full_name
from prefixkv.models.picture_tokens import counted_picture_tokens, fixed_picture_tokens, reads_pictures
from prefixkv.models.shapes import SHAPES
from prefixkv.transformers_compat import setting

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
            that reads none, and where the processor would have to count and was not asked or cannot be had.
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
            "state_bytes": self.geometry.state_bytes,
            "context_tokens": self.context_tokens,
            "weight_bytes": self.weight_bytes,
            "picture_tokens": {f"{width}x{height}": count for (width, height), count in self.picture_tokens.items()},
        }


def model_facts(
    name: str,
    pictures: Sequence[tuple[int, int]] = (),
    notify: Notify = lambda text: None,
    trust_remote_code: bool = False,
) -> ModelFacts:
    """Read a model's configuration; no weights, and as little of transformers as it takes.

    For most families that `prefixkv models` lists, and for files that name every size, config.json alone is read. For
    others transformers' own configuration class is needed, which takes seconds to import.

    Args:
        name: an alias, a hub id or a folder.
        pictures: sizes in pixels, width and height, for which tokens are wanted even where only the model's processor
            can count them; else those of `PICTURES` are said where the configuration says them.
        notify: called with one line for each thing that cannot be had, and before what takes long.
        trust_remote_code: whether Python that comes with the model's files may run.

    Raises:
        PrefixKVError: the configuration cannot be had, or the model cannot be compressed.
    """
    check_model_name(name)
    wanted = full_name(name)
    if said := folder_notice(name):
        notify(said)
    path = config_path(wanted)
    if path is None and wanted in SHAPES:
        notify(f"the configuration of {wanted!r} is not on this machine; these are the built-in figures")
        shape = SHAPES[wanted]
        identity = ModelIdentity(wanted, None, shape.geometry, None)
        return ModelFacts(identity, None, None, None, shape.context_tokens, weight_bytes(wanted), {})
    if path is None:
        bring(wanted, Part.CONFIG)
        path = config_path(wanted)
        assert path is not None
    if path.is_file():
        refuse_pointers(path.parent)
    config: Any = ConfigFile.read(path)
    if config is None:
        notify(f"{wanted!r} needs transformers' own configuration class, which takes seconds to load")
        if trust_remote_code:
            notify(f"Python code that comes with {wanted!r} may run on this machine")
        config = read_config(wanted, trust_remote_code)
    text = config.get_text_config(decoder=True)
    identity = ModelIdentity(wanted, commit_of(path), KVGeometry.of(config, published_dtype(config)), None)
    return ModelFacts(
        identity,
        config.model_type,
        _family(wanted, config.model_type),
        setting(text, "num_attention_heads"),
        setting(text, "max_position_embeddings"),
        _weight_bytes(wanted, notify),
        _picture_tokens(wanted, config, pictures, notify, trust_remote_code),
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
    name: str, config: Any, sizes: Sequence[tuple[int, int]], notify: Notify, trust_remote_code: bool
) -> dict[tuple[int, int], int]:
    """Tokens that a picture of each size adds to a prompt."""
    if not reads_pictures(config):
        return {}
    if (fixed := fixed_picture_tokens(config)) is not None:
        return dict.fromkeys(sizes or PICTURES, fixed)
    if not sizes:
        notify("how many tokens a picture takes depends on its size: give --picture 640x480, and the processor counts")
        return {}
    notify(f"the processor of {name!r} counts the tokens, which takes seconds to load")
    return counted_picture_tokens(name, config, sizes, notify, trust_remote_code)
