"""What a model's files say without its weights being loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefixkv.documents import read_json
from prefixkv.errors import PrefixKVError
from prefixkv.models.config_file import check_config_file, published_dtype
from prefixkv.models.download import Part, bring, is_here
from prefixkv.models.geometry import DTYPE_BYTES
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.names import check_model_name, full_name, source_of
from prefixkv.models.pretrained import read_part, reading
from prefixkv.models.shapes import SHAPES

INDEX = "model.safetensors.index.json"
MOST_INDEXED_BYTES = 2**53


def read_config(name: str, trust_remote_code: bool = False) -> Any:
    """A model's configuration, from its folder, from the hub's files on disk, or from the hub.

    Args:
        name: an alias, a hub id or a folder.
        trust_remote_code: whether Python that comes with the files may run.

    Raises:
        PrefixKVError: it cannot be had.
    """
    check_model_name(name)
    wanted = full_name(name)
    bring(source_of(wanted), Part.CONFIG, trust_remote_code)
    import transformers

    with reading(f"the configuration of {wanted!r}"):
        check_config_file(wanted)
        return read_part(transformers.AutoConfig, source_of(wanted), trust_remote_code)


def read_identity(name: str) -> ModelIdentity:
    """A model's shape and fingerprint, from its configuration alone.

    Raises:
        PrefixKVError: the configuration cannot be had, or the model cannot be compressed.
    """
    return identity_of(name, read_config(name))


def identity_of(name: str, config: Any) -> ModelIdentity:
    """The same from a configuration that was read; its dtype is the published one."""
    return ModelIdentity.of(full_name(name), config, published_dtype(config))


def weight_bytes(name: str) -> int:
    """Bytes of a model's weights: built in for well-known models, else as the files in its folder say.

    Raises:
        PrefixKVError: neither is to be had.
    """
    if name in SHAPES:
        shape = SHAPES[name]
        return shape.parameters * DTYPE_BYTES[shape.geometry.dtype]
    folder = model_folder(name)
    files = list(folder.glob("*.safetensors")) if folder is not None else []
    total = sum(file.stat().st_size for file in files)
    if not total and folder is not None and (folder / INDEX).is_file():
        total = _indexed_bytes(folder / INDEX)
    if not total:
        raise PrefixKVError(f"the size of {name!r} is not known: give its folder with safetensors files")
    return total


def _indexed_bytes(path: Path) -> int:
    """What an index of weight files says of their size together; 0 where it says nothing that can be used."""
    content = read_json(path)
    facts = content.get("metadata") if isinstance(content, dict) else None
    size = facts.get("total_size") if isinstance(facts, dict) else None
    return size if type(size) is int and 0 < size <= MOST_INDEXED_BYTES else 0


def weights_are_here(name: str) -> bool:
    """Whether a model can be loaded without the network."""
    wanted = full_name(name)
    return wanted in ("auto", "demo") or Path(wanted).expanduser().is_dir() or is_here(wanted)


def model_folder(name: str) -> Path | None:
    """Where a model's files are on this disk; None where they are not.

    Args:
        name: `demo`, an alias, a hub id or a folder.
    """
    folder = Path(source_of(full_name(name)))
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    for file in (INDEX, "model.safetensors", "config.json"):
        cached = try_to_load_from_cache(str(folder), file)
        if isinstance(cached, str):
            return Path(cached).parent
    return None
