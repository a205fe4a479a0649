"""Token ids that mean something to a conversation."""

from __future__ import annotations

from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import picture_token_ids


def stop_tokens(loaded: LoadedModel) -> set[int]:
    """Ids that end an answer."""
    stop = loaded.model.generation_config.eos_token_id
    stop = loaded.tokenizer.eos_token_id if stop is None else stop
    return set(stop) if isinstance(stop, list) else {stop}


def picture_token(loaded: LoadedModel) -> int | None:
    """The id that stands for a part of a picture; None for a model without pictures."""
    return next(iter(picture_token_ids(loaded.model.config)), None)
