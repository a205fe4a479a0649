"""How much a model can read: a text behind its last trained position is answered with nonsense."""

from __future__ import annotations

from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.transformers_compat import setting


def answer_room(config: Any, prompt_tokens: int) -> int | None:
    """Tokens that an answer may have behind a prompt.

    Args:
        config: of the model.
        prompt_tokens: length of the prompt, with everything that was read before it.

    Returns:
        At least 1; None where the configuration does not say how long a text may be.

    Raises:
        PrefixKVError: the prompt fills the model's positions, or has more tokens than they are.
    """
    longest = setting(config.get_text_config(decoder=True), "max_position_embeddings")
    if longest is None:
        return None
    if prompt_tokens >= longest:
        raise PrefixKVError(
            f"the prompt has {prompt_tokens:,} tokens, and the model reads {longest:,}, its answer among them: shorten "
            "it, or begin a new conversation"
        )
    return int(longest) - prompt_tokens
