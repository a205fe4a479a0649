"""Token ids that mean something to a conversation."""

from __future__ import annotations

from prefixkv.models.loading import LoadedModel
from prefixkv.transformers_compat import picture_token_ids


def stop_tokens(loaded: LoadedModel) -> set[int]:
    """Ids that end an answer; empty where neither the model nor its tokenizer knows an end, as with some base models.

    A published model names its ends in its generation settings, in its tokenizer, or in both and not always the same:
    each of them ends an answer. Its configuration is not asked, because it has an end where its file names none.
    """
    sources = (loaded.model.generation_config, loaded.tokenizer)
    named = [getattr(source, "eos_token_id", None) for source in sources]
    return {int(token) for ends in named if ends is not None for token in (ends if isinstance(ends, list) else [ends])}


def picture_token(loaded: LoadedModel) -> int | None:
    """The id that stands for a part of a picture; None for a model without pictures."""
    return next(iter(picture_token_ids(loaded.model.config)), None)
