"""What a model's generation_config.json asks for and answers do without: said, so that nothing differs unseen.

How tokens are chosen is the user's to say, alike in a conversation, a batch, a saved context and an evaluation; the
ends of an answer are taken from the file.
"""

from __future__ import annotations

from typing import Any

SHAPING = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "length_penalty",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "penalty_alpha",
    "repetition_penalty",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "watermarking_config",
)
"""Fields that change which token is the likeliest, or where an answer ends."""
_NEUTRAL: tuple[Any, ...] = (None, 0, 1, 1.0, False, [])
"""Values that change nothing, whichever field has them."""


def unapplied_settings(generation_config: Any) -> dict[str, Any]:
    """The fields that would change an answer and are not applied.

    Args:
        generation_config: of a model of transformers.
    """
    found = {name: getattr(generation_config, name, None) for name in SHAPING}
    return {name: value for name, value in found.items() if value not in _NEUTRAL}


def settings_notice(name: str, generation_config: Any) -> str | None:
    """One line that names these fields; None where there are none.

    Args:
        name: of the model.
        generation_config: of it.
    """
    named = [f"{field} {value!r}"[:60] for field, value in unapplied_settings(generation_config).items()]
    if not named:
        return None
    return f"generation_config.json of {name!r} asks for {', '.join(named)}, which is not applied to answers"
