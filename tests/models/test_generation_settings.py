"""Settings of a published generation_config.json that would change an answer are named, and no others."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from prefixkv.models.generation_settings import SHAPING, settings_notice, unapplied_settings


@pytest.mark.parametrize(
    "setting",
    [
        {"suppress_tokens": [5, 6]},
        {"stop_strings": ["."]},
        {"repetition_penalty": 1.05},
        {"no_repeat_ngram_size": 3},
        {"bad_words_ids": [[4]]},
        {"min_new_tokens": 8},
    ],
)
def test_a_setting_that_would_change_an_answer_is_named(setting: dict[str, object]) -> None:
    assert unapplied_settings(GenerationConfig(**setting)) == setting
    said = settings_notice("org/model", GenerationConfig(**setting))
    assert said is not None
    assert next(iter(setting)) in said
    assert "\n" not in said


def test_what_changes_nothing_or_is_applied_is_not_named() -> None:
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "suppress_tokens": [], "min_length": 0, "guidance_scale": 1}
    applied = {"eos_token_id": [1, 2], "temperature": 0.7, "do_sample": True, "top_p": 0.9, "max_length": 100}
    assert settings_notice("org/model", GenerationConfig(**neutral, **applied)) is None


def test_the_line_stays_short() -> None:
    said = settings_notice("org/model", GenerationConfig(suppress_tokens=list(range(10_000))))
    assert said is not None
    assert len(said) < 250


def test_fields_are_those_of_transformers() -> None:
    """Fields that this version of transformers has dropped are left over from published files, and still said."""
    assert len(set(SHAPING) & set(GenerationConfig().to_dict())) > len(SHAPING) / 2
