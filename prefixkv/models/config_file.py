"""A model's config.json, read without transformers, with the attributes that a transformers configuration has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.decoder_defaults import DECODER_DEFAULTS, FLAT_TYPES, TEXT_TYPES, layer_types
from prefixkv.models.lfs_pointers import refuse_pointers
from prefixkv.models.names import source_of
from prefixkv.models.refused_types import REFUSED_TYPES

CONFIG = "config.json"
_COUNTS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")
_MOST_COUNT = 2**53
_RARE = (
    "kv_lora_rank",
    "v_head_dim",
    "num_kv_shared_layers",
    "kv_sharing_modes",
    "global_head_dim",
    "attention_chunk_size",
    "per_layer_config",
)
"""What decides the cache's shape together with defaults that only transformers' classes know."""
_EVERY_SIZE = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "layer_types"}
"""With these a file says everything that the cache's shape depends on, of whatever type its model is."""


class ConfigFile:
    """A configuration as its file has it; what the file leaves out is what transformers' class would fill in."""

    def __init__(self, content: dict[str, Any], text_type: str = "") -> None:
        """Take in a file's content.

        Args:
            content: of the file, or of its text part.
            text_type: for a text part, the type whose defaults it has; empty for the whole file.
        """
        self._content, self._text_type = content, text_type
        self._values = {**DECODER_DEFAULTS.get(text_type, {}), **content}
        if text_type and self._values.get("layer_types") is None:
            self._values["layer_types"] = layer_types(self._values)

    @classmethod
    def read(cls, path: Path) -> ConfigFile | None:
        """Read a file.

        Args:
            path: of a config.json.

        Returns:
            None where the file leaves out what only transformers can say: sizes of a type that is not listed, or layers
            with values of their own.

        Raises:
            PrefixKVError: it is no JSON object, a size in it is no count, or it is of another program's layout.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PrefixKVError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
            raise PrefixKVError(f"{path} names no model_type: it is not the configuration of a model")
        config = cls(content)
        if content["model_type"] in REFUSED_TYPES:
            return config
        if content["model_type"] in TEXT_TYPES.keys() - FLAT_TYPES and not isinstance(content.get("text_config"), dict):
            _refuse_flat(content, path)
            return None
        text = config.get_text_config()
        for name in (*_COUNTS, "max_position_embeddings"):
            value = text._values.get(name)
            if value is not None and (type(value) is not int or not 1 <= value <= _MOST_COUNT):
                from prefixkv.schemas.field import shown

                raise PrefixKVError(
                    f"{path}: {name} is {shown(value)}, which is no count: give a whole number of 1 or more"
                )
        kinds = text._values.get("layer_types")
        if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
            from prefixkv.schemas.field import shown

            raise PrefixKVError(f"{path}: layer_types is {shown(kinds)}: give a list with a name for each layer")
        return config if text._says_every_size() else None

    def _says_every_size(self) -> bool:
        given = {name for name, value in self._content.items() if value is not None}
        kinds = set(self._values.get("layer_types") or ()) - {"full_attention", "sliding_attention"}
        if kinds or any(self._values.get(name) for name in _RARE):
            return False
        if self._text_type == "gemma3_text" and self._values.get("use_bidirectional_attention"):
            return False  # Its windows are then half as long.
        if self._text_type == "smollm3" and self._values.get("use_sliding_window"):
            return "layer_types" in given
        return self._text_type in DECODER_DEFAULTS or given >= _EVERY_SIZE

    def get_text_config(self, decoder: bool = True) -> ConfigFile:
        """The text part; of a language model the whole.

        Args:
            decoder: as in transformers; a file has one text part.
        """
        if self._text_type:
            return self
        whole = str(self._content["model_type"])
        inner = self._content.get("text_config")
        if isinstance(inner, dict):
            named = str(inner.get("model_type") or whole)
            return ConfigFile(inner, TEXT_TYPES.get(named, named))
        return ConfigFile(self._content, TEXT_TYPES.get(whole, whole))

    def __getattr__(self, name: str) -> Any:
        """A value of the file, or its default.

        Raises:
            AttributeError: there is none, as with a transformers configuration.
        """
        if name == "dtype":
            return self._values.get("dtype", self._values.get("torch_dtype"))
        if name == "model_type" and self._text_type:
            return self._text_type
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"this configuration has no {name!r}")
        return self._values[name]


def _refuse_flat(content: dict[str, Any], path: Path) -> None:
    """Refuse the layout of a checkpoint that transformers' class would read past, taking its own sizes for the file's.

    Args:
        content: of the file of a model of pictures, without a text part.
        path: of it.
    """
    if named := [name for name in _COUNTS if content.get(name) is not None]:
        raise PrefixKVError(
            f"{path} has {named[0]} beside its {content['model_type']} model and no text_config: it is of another "
            "program's layout, look for the model in transformers' layout (often named -hf)"
        )


def check_config_file(name: str) -> None:
    """Refuse a config.json on this disk that no model can be made of, before transformers makes something else of it.

    Args:
        name: `demo`, a hub id or a folder; nothing is done where its file is not here.

    Raises:
        PrefixKVError: as `ConfigFile.read`, or a file beside it is a pointer of git-lfs.
    """
    path = config_path(name)
    if path is not None and path.is_file():
        refuse_pointers(path.parent)
        ConfigFile.read(path)


def config_path(name: str) -> Path | None:
    """Where a model's config.json is on this disk: in its folder, or among what was downloaded; None for nowhere.

    Args:
        name: `demo`, a hub id or a folder.
    """
    source = source_of(name)
    if Path(source).is_dir():
        return Path(source) / CONFIG
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, CONFIG)
    return Path(found) if isinstance(found, str) else None


def commit_of(path: Path) -> str | None:
    """The hub's commit that a file among what was downloaded is of (`.../snapshots/COMMIT/config.json`); else None."""
    return path.parent.name if path.parent.parent.name == "snapshots" else None


def revision_here(name: str) -> str | None:
    """The hub's commit of a model that was downloaded; None for a folder, and for what is no hub id.

    Args:
        name: `demo`, a hub id, a folder, or whatever a model is called.
    """
    if "/" not in name or Path(name).is_dir():
        return None
    try:
        path = config_path(name)
    except ValueError:  # the hub's client looks at names first
        return None
    return commit_of(path) if path is not None else None


def published_dtype(config: Any) -> str:
    """Name of the dtype that a model is published in, float32 where nothing says.

    Args:
        config: of the whole model, of transformers or a `ConfigFile`.
    """
    found = config.dtype or config.get_text_config(decoder=True).dtype or "float32"
    return str(found).removeprefix("torch.")
