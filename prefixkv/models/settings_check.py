"""What a generation_config.json asks for is tried when its model is loaded, so that no answer fails by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.config_file import config_path
from prefixkv.models.generation_settings import PROCESSED, asked_settings
from prefixkv.transformers_compat import logits_processors

SETTINGS = "generation_config.json"


def check_settings_file(source: str) -> None:
    """Refuse a file that is no JSON object: transformers would go on without it, and without the ends that it names.

    Args:
        source: a folder, or a hub id whose files were brought here.

    Raises:
        PrefixKVError: the file is there and is none.
    """
    config_file = config_path(source)
    file = None if config_file is None else config_file.parent / SETTINGS
    if file is None or not file.is_file():
        return
    try:
        is_right = isinstance(json.loads(file.read_bytes()), dict)
    except (ValueError, RecursionError):
        is_right = False
    if not is_right:
        raise PrefixKVError(f"{Path(source) / SETTINGS} is no JSON object: download it again, or take it away")


def check_settings(name: str, model: Any) -> None:
    """Refuse ends and stop texts that are none, and settings that transformers cannot apply to this model's logits.

    Args:
        name: of the model.
        model: of transformers, ready.

    Raises:
        PrefixKVError: there is one.
    """
    import torch

    from prefixkv.schemas.field import shown

    settings = model.generation_config
    ends, stops = settings.eos_token_id, getattr(settings, "stop_strings", None)
    for end in ends if isinstance(ends, list) else [ends] if ends is not None else []:
        if type(end) is not int:  # below 0 it names no token, and ends nothing
            raise PrefixKVError(
                f"{SETTINGS} of {name!r}: eos_token_id is {shown(ends)}: give the number of a token, or a list of them"
            )
    for stop in stops if isinstance(stops, list) else [stops] if stops is not None else []:
        if not isinstance(stop, str) or not stop:
            raise PrefixKVError(
                f"{SETTINGS} of {name!r}: stop_strings is {shown(stops)}: give a text, or a list of them"
            )
    asked = asked_settings(settings, PROCESSED)
    if not asked:
        return
    logits = torch.zeros(1, int(model.config.get_text_config(decoder=True).vocab_size), device=model.device)
    try:
        for length in (1, 2):  # the first token of an answer, and its last
            tokens = torch.zeros(1, length, dtype=torch.int64, device=model.device)
            logits_processors(model, asked, tokens[:, :1], 2)(tokens, logits.clone())
    # Transformers checks some values, in its own words, and meets others by errors of any kind.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        values = ", ".join(f"{field} {shown(value)}" for field, value in asked.items())
        raise PrefixKVError(
            f"{SETTINGS} of {name!r}: {values} cannot be applied ({reason}): mend the file, or take it away"
        ) from error
