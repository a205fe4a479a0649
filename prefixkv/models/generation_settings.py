"""What becomes of each attribute of a model's generation_config.json, alike in chat, save, batch, eval and the library.

The answer of stock `generate` is the measure: an attribute that would change it is followed, or it is said that it is
not. How tokens are drawn and how long an answer may be is the user's to say.
"""

from __future__ import annotations

from typing import Any, Literal

Treatment = Literal["followed", "asked", "without effect", "said"]
"""`followed`: it has the effect that it has in stock `generate`. `asked`: an option of the user's decides, whatever the
file says. `without effect`: the tokens of an answer do not depend on it. `said`: it would change an answer and is not
followed; a notice names it when the model is loaded."""

PROCESSED = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "remove_invalid_values",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
    "watermarking_config",
)
"""Followed by transformers' own logits processors, see `prefixkv.generation.shaping`."""
ENDS = ("eos_token_id", "stop_strings")
"""Followed where an answer ends, see `prefixkv.inputs.token_ids` and `prefixkv.generation.stop_text`."""
ASKED = ("do_sample", "max_length", "max_new_tokens", "temperature", "top_k", "top_p")
"""Options of the command line, fields of a batch line, and of `Sampling`."""
WITHOUT_EFFECT = (
    "_commit_hash",
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "renormalize_logits",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_mtp",
)
"""How an answer is computed, guessed ahead or handed out; or what matters beside a setting that is said only."""
SAID = (
    "assistant_ensemble_weight",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "epsilon_cutoff",
    "eta_cutoff",
    "force_words_ids",
    "guidance_scale",
    "max_time",
    "min_p",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "penalty_alpha",
    "token_healing",
    "top_h",
    "typical_p",
)
"""Several passes or rows for one answer, a clock, or a way to draw that `Sampling` does not have."""

TREATMENTS: dict[str, Treatment] = {
    **dict.fromkeys((*PROCESSED, *ENDS), "followed"),
    **dict.fromkeys(ASKED, "asked"),
    **dict.fromkeys(WITHOUT_EFFECT, "without effect"),
    **dict.fromkeys(SAID, "said"),
}
"""Every attribute of every version of transformers that is supported, and what becomes of it."""
_NEUTRAL_ONE = {
    "diversity_penalty",
    "encoder_repetition_penalty",
    "guidance_scale",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "typical_p",
}
"""Attributes whose value 1 changes nothing; 0, an empty list and false change nothing in all but the next."""
_NEVER_NEUTRAL = {"forced_bos_token_id", "forced_eos_token_id", "max_time", "top_h"}
"""Attributes for which 0 is a value as any other."""


def asked_settings(generation_config: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The attributes of these names whose values are not neutral.

    Args:
        generation_config: of a model of transformers.
        names: of attributes.
    """
    found = {name: getattr(generation_config, name, None) for name in names}
    return {name: value for name, value in found.items() if not _is_neutral(name, value)}


def _is_neutral(name: str, value: Any) -> bool:
    if value is None or name in _NEVER_NEUTRAL:
        return value is None
    return value in (0, [], {}) or (name in _NEUTRAL_ONE and value == 1)


def followed_settings(generation_config: Any) -> dict[str, Any]:
    """The attributes that change an answer as they do in stock `generate`, but for its end tokens."""
    return asked_settings(generation_config, (*PROCESSED, "stop_strings"))


def unapplied_settings(generation_config: Any) -> dict[str, Any]:
    """The attributes that would change an answer and are not followed.

    Args:
        generation_config: of a model of transformers. Attributes of none of its versions are among them: nobody knows
            what they ask for.
    """
    known = {name for name in vars(generation_config) if not name.startswith("_")}
    return asked_settings(generation_config, (*SAID, *sorted(known - TREATMENTS.keys())))


def settings_notice(name: str, generation_config: Any) -> str | None:
    """One line that names these attributes; None where there are none.

    Args:
        name: of the model.
        generation_config: of it.
    """
    named = [f"{field} {value!r}"[:60] for field, value in unapplied_settings(generation_config).items()]
    if not named:
        return None
    more = f" and {len(named) - 4} more" * (len(named) > 4)
    return f"generation_config.json of {name!r} asks for {', '.join(named[:4])}{more}, which is not applied to answers"
