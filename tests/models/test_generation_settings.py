"""Settings of a published generation_config.json that would change an answer are named, and no others."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from prefixkv.models.generation_settings import TREATMENTS, settings_notice, unapplied_settings


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 4},
        {"guidance_scale": 1.5},
        {"min_p": 0.1},
        {"typical_p": 0.5},
        {"penalty_alpha": 0.6},
        {"max_time": 1.0},
        {"a_word_of_tomorrow": 8},
    ],
)
def test_a_setting_that_would_change_an_answer_is_named(setting: dict[str, object]) -> None:
    assert unapplied_settings(GenerationConfig(**setting)) == setting
    said = settings_notice("org/model", GenerationConfig(**setting))
    assert said is not None
    assert next(iter(setting)) in said
    assert "\n" not in said


def test_what_changes_nothing_or_is_applied_is_not_named() -> None:
    neutral = {
        "encoder_repetition_penalty": 1.0,
        "num_beams": 1,
        "suppress_tokens": [],
        "min_length": 0,
        "guidance_scale": 1,
    }
    applied = {"eos_token_id": [1, 2], "temperature": 0.7, "do_sample": True, "top_p": 0.9, "repetition_penalty": 1.1}
    assert settings_notice("org/model", GenerationConfig(**neutral, **applied)) is None


def test_the_line_stays_short() -> None:
    said = settings_notice("org/model", GenerationConfig(force_words_ids=list(range(10_000)), num_beams=3))
    assert said is not None
    assert len(said) < 250


@pytest.mark.parametrize("attribute", sorted(GenerationConfig().to_dict()))
def test_every_attribute_of_the_installed_version_is_in_the_table(attribute: str) -> None:
    assert attribute in TREATMENTS, f"say in the table what becomes of {attribute}"
