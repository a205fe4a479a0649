"""Token ids that mean something to a conversation."""

from __future__ import annotations

from typing import Any

from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import picture_token_ids


def stop_tokens(loaded: LoadedModel) -> set[int]:
    """Ids that end an answer of a loaded model, see `end_tokens`."""
    return end_tokens(loaded.model, loaded.tokenizer)


def end_tokens(model: Any, tokenizer: Any = None) -> set[int]:
    """Ids that end an answer; empty where neither the model nor its tokenizer knows an end, as with some base models.

    A published model names its ends in its generation settings, in its tokenizer, or in both and not always the same:
    each of them ends an answer. Its configuration is not asked, because it has an end where its file names none.

    Args:
        model: of transformers.
        tokenizer: of transformers; None where there is only the model.
    """
    named = [getattr(source, "eos_token_id", None) for source in (model.generation_config, tokenizer)]
    return {int(token) for ends in named if ends is not None for token in (ends if isinstance(ends, list) else [ends])}


def picture_token(loaded: LoadedModel) -> int | None:
    """The id that stands for a part of a picture; None for a model without pictures."""
    return next(iter(picture_token_ids(loaded.model.config)), None)
