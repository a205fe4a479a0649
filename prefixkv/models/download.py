"""A hub model's files on this disk: which are missing, which are wanted, and how they get here."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.hub import HubModel, look_up, quiet, refusal

CONFIG = "config.json"


class Part(enum.IntEnum):
    """How much of a model is wanted; each part has those before it."""

    CONFIG = 1
    PROCESSOR = 2
    WEIGHTS = 3


Progress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes in all."""

_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_SMALL = re.compile(r"([^/]+|additional_chat_templates/[^/]+)\.(json|jinja|txt|model|tiktoken)")
_CODE = re.compile(r"[^/]+\.py")
_WEIGHTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
)
_TOKENIZERS = ("tokenizer_config.json", "tokenizer.json")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def is_here(name: str, part: Part = Part.WEIGHTS, with_code: bool = False) -> bool:
    """Whether a part of a hub model can be read from what was downloaded before.

    Args:
        name: a hub id.
        part: what is wanted.
        with_code: whether Python that comes with the model is wanted, too.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CONFIG)
    if not isinstance(found, str):
        return False
    folder = Path(found).parent
    return _holds(folder, part) and (not with_code or any(folder.glob("*.py")))


def missing(name: str, part: Part = Part.WEIGHTS, with_code: bool = False) -> HubModel | None:
    """Ask the hub for a model that is not here.

    Args:
        name: a folder or a hub id.
        part: what is wanted.
        with_code: as for `is_here`.

    Returns:
        None where it is here.

    Raises:
        PrefixKVError: the hub cannot be reached, or has no such model.
    """
    return None if Path(name).is_dir() or is_here(name, part, with_code) else look_up(name)


def wanted_files(model: HubModel, part: Part = Part.WEIGHTS, with_code: bool = False) -> dict[str, int]:
    """Of a repository's files those that transformers loads, with their bytes; the weights last.

    Args:
        model: as the hub knows it.
        part: what is wanted.
        with_code: as for `is_here`.

    Raises:
        PrefixKVError: it holds no model that transformers loads.
    """
    files = model.files
    weights = [file for file in files if _SAFETENSORS.fullmatch(file)]
    weights = weights or [file for file in files if _PICKLED.fullmatch(file)]
    if CONFIG not in files or not weights:
        raise PrefixKVError(
            f"{model.id!r} holds no model in transformers' layout: look for a version of it that does, often named -hf"
        )
    chosen = [file for file in files if _SMALL.fullmatch(file)] if part >= Part.PROCESSOR else [CONFIG]
    chosen += [file for file in files if with_code and _CODE.fullmatch(file)]
    chosen += weights if part >= Part.WEIGHTS else []
    return {file: files[file] for file in chosen}


def download(
    model: HubModel,
    part: Part = Part.WEIGHTS,
    with_code: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Fetch what is missing of a model's files; what is here already is not fetched again.

    Args:
        model: as the hub knows it.
        part: what is wanted.
        with_code: as for `is_here`.
        progress: called as bytes come.

    Raises:
        PrefixKVError: the network fails, or the hub will not give the files.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    wanted = wanted_files(model, part, with_code)
    total, done = sum(wanted.values()), 0
    for file, size in wanted.items():

        def count(here: int, before: int = done) -> None:
            progress(min(before + here, total), total)

        if not isinstance(try_to_load_from_cache(model.id, file), str):
            try:
                with quiet():
                    hf_hub_download(model.id, file, tqdm_class=_counter(count))
            except Exception as error:  # the client raises kinds of several libraries
                raise refusal(model.id, error) from error
        done += size
        progress(done, total)


def bring(name: str, part: Part = Part.WEIGHTS, with_code: bool = False) -> None:
    """Have a part of a model on this disk, from the hub where it is missing.

    Args:
        name: a folder or a hub id.
        part: what is wanted.
        with_code: as for `is_here`.

    Raises:
        PrefixKVError: it is missing and cannot be had.
    """
    if (found := missing(name, part, with_code)) is not None:
        download(found, part, with_code)


def _holds(folder: Path, part: Part) -> bool:
    """Whether a folder that has a config.json holds all of a part."""
    if part == Part.CONFIG:
        return True

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    sees = "vision_config" in _object(folder / CONFIG)
    if not has(*_TOKENIZERS) or (sees and not has(*_PROCESSORS)):
        return False
    return part == Part.PROCESSOR or any(_has_weights(folder, *pair) for pair in _WEIGHTS)


def _has_weights(folder: Path, index: str, single: str) -> bool:
    """Whether all files of weights are there: those of the index, or the only one."""
    if not (folder / index).is_file():
        return (folder / single).is_file()
    places = _object(folder / index).get("weight_map")
    names: Iterable[Any] = places.values() if isinstance(places, dict) else ()
    return bool(names) and all(isinstance(name, str) and (folder / name).is_file() for name in set(names))


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none. The cache's files are links, so those are followed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _counter(count: Callable[[int], None]) -> type:
    """A class that the hub's client takes for its bar, and that hands the bytes on instead."""
    from tqdm import tqdm

    class Counter(tqdm):
        def __init__(self, *arguments: Any, initial: int = 0, **options: Any) -> None:
            super().__init__(disable=True)
            self._here = initial
            count(initial)

        def update(self, n: float | None = 1) -> None:
            self._here += int(n or 0)
            count(self._here)

        # Bytes over the network, where the client tells them from bytes that are written.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *arguments: Any, **options: Any) -> None:
            pass

    return Counter
