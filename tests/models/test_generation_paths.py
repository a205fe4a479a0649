"""What a generation_config.json asks for has one answer, by whichever way the question comes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import prefixkv
from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.conversation import Conversation
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.stop_text import before_stop, stop_texts
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.generation_settings import TREATMENTS, unapplied_settings
from prefixkv.models.loading import LoadedModel
from tests.families import tiny_models
from tests.families.checks import loaded as as_loaded

PAGE = Path(__file__).parents[2] / "docs" / "generation-settings.md"
BUDGET, METHOD, SAMPLING = "40%", "prefixkv", Sampling(max_new_tokens=8)
QUESTION, NEXT = "ba ce di fo gu ha je ki lo mu na pe", "ra so tu"
FIRST, SECOND, THIRD = "first", "second", "third"
"""Stand for tokens of the answer that is given where nothing is asked for."""
VALUES: dict[str, Any] = {
    "bad_words_ids": [[FIRST]],
    "begin_suppress_tokens": [FIRST],
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 0.3,
    "eos_token_id": THIRD,
    "exponential_decay_length_penalty": (1, 4.0),
    "forced_bos_token_id": FIRST,
    "forced_eos_token_id": FIRST,
    "min_length": 3,
    "min_new_tokens": 3,
    "no_repeat_ngram_size": 1,
    "remove_invalid_values": True,
    "repetition_penalty": 9.0,
    "sequence_bias": [[[FIRST], -100.0]],
    "suppress_tokens": [FIRST, SECOND],
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 50.0},
    "stop_strings": [THIRD],
    "do_sample": True,
    "max_length": 3,
    "max_new_tokens": 3,
    "temperature": 3.0,
    "top_k": 2,
    "top_p": 0.3,
    "cache_implementation": "static",
    "use_cache": False,
    "output_attentions": True,
    "output_scores": True,
    "return_dict_in_generate": True,
    "renormalize_logits": True,
    "pad_token_id": 3,
    "prefill_chunk_size": 2,
    "diversity_penalty": 0.5,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "guidance_scale": 1.5,
    "min_p": 0.2,
    "num_beams": 3,
    "num_return_sequences": 2,
    "typical_p": 0.4,
    "top_h": 0.4,
    "max_time": 60.0,
}
"""Values that tell, for each attribute that has a meaning for one row that is decoded once."""
CHANGES = {
    *("bad_words_ids", "begin_suppress_tokens", "eos_token_id", "exponential_decay_length_penalty"),
    *("forced_eos_token_id", "no_repeat_ngram_size", "repetition_penalty", "sequence_bias", "suppress_tokens"),
    *("stop_strings", "watermarking_config"),
}
"""Attributes whose values above give another answer with this model."""
NOT_BESIDE_A_CACHE = {"cache_implementation", "prefill_chunk_size", "use_cache"}
"""Attributes by which stock `generate` refuses a cache that it is given, reads the prompt into it in pieces, or leaves
it aside: there the answer is that of another cache."""
WORDS_ONLY = {"stop_strings"}
"""Attributes for which stock `generate` needs a tokenizer of parts of words, which this model's is not."""


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A small random model, which never ends an answer by itself."""
    return as_loaded(tiny_models.llama())


@pytest.fixture
def generation_config(loaded: LoadedModel) -> Iterator[GenerationConfig]:
    before = loaded.model.generation_config
    loaded.model.generation_config = copy.deepcopy(before)
    yield loaded.model.generation_config
    loaded.model.generation_config = before


def _tokens(loaded: LoadedModel) -> list[int]:
    with prefixkv.Engine(loaded, METHOD) as engine:
        return engine.submit(Prompt(loaded.processor, [Turn(QUESTION)]), BUDGET, SAMPLING).result()


def _by_engine(loaded: LoadedModel) -> str:
    """As `prefixkv batch` has it."""
    text = decoded(loaded.tokenizer, _tokens(loaded))
    return before_stop(text, stop_texts(SAMPLING, loaded.model.generation_config)).strip()


def _by_generate(loaded: LoadedModel) -> str:
    """By stock `generate`, with what the user asks for said in the call, as everywhere else."""
    inputs = Prompt(loaded.processor, [Turn(QUESTION)]).inputs
    with prefixkv.compress(loaded.model, BUDGET, METHOD) as cache:
        found = loaded.model.generate(
            **inputs,
            **cache.argument,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            max_new_tokens=SAMPLING.max_new_tokens,
            do_sample=False,
            return_dict_in_generate=False,
            tokenizer=loaded.tokenizer,
        )
    text = decoded(loaded.tokenizer, found[0, inputs["input_ids"].shape[1] :].tolist())
    return before_stop(text, stop_texts(SAMPLING, loaded.model.generation_config)).strip()


def _by_conversation(loaded: LoadedModel, folder: Path) -> list[str]:
    """The first answer; the second; and the second of the conversation that was saved and opened in between."""
    talk = Conversation(loaded, BUDGET, METHOD, SAMPLING)
    first = "".join(talk.ask(QUESTION))
    save_context(talk, folder / "a.safetensors", "a")
    opened = load_context(folder / "a.safetensors", loaded, SAMPLING)
    return [first, *("".join(each.ask(NEXT)) for each in (talk, opened))]


def _telling(value: Any, answer: list[int], words: list[str] | None = None) -> Any:
    """The value with the answer's tokens, or their words, in their places."""
    if isinstance(value, list):
        return [_telling(each, answer, words) for each in value]
    if value in (FIRST, SECOND, THIRD):
        place = (FIRST, SECOND, THIRD).index(value)
        return answer[place] if words is None else words[place]
    return value


@pytest.mark.exhaustive(keep=4)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attribute", sorted(VALUES))
def test_one_answer_by_every_way(
    loaded: LoadedModel, generation_config: GenerationConfig, tmp_path: Path, attribute: str
) -> None:
    usual = _tokens(loaded)
    words = decoded(loaded.tokenizer, usual).split() if attribute == "stop_strings" else None
    plain = _by_engine(loaded)
    setattr(generation_config, attribute, _telling(VALUES[attribute], usual, words))
    first, second, opened = _by_conversation(loaded, tmp_path)
    assert first == _by_engine(loaded)
    assert second == opened
    if TREATMENTS[attribute] == "said":
        assert first == plain
        assert attribute in unapplied_settings(generation_config)
        return
    if attribute not in NOT_BESIDE_A_CACHE | WORDS_ONLY:
        assert first == _by_generate(loaded)
    assert (first != plain) == (attribute in CHANGES)


def test_every_attribute_has_a_value_or_nothing_to_say() -> None:
    silent = {
        name for name, treatment in TREATMENTS.items() if name not in VALUES and treatment in ("followed", "asked")
    }
    assert silent == set()
    assert set(GenerationConfig().to_dict()) <= set(TREATMENTS)


def test_the_page_has_every_attribute() -> None:
    said = dict(
        line.strip("| ").replace("`", "").split(" | ")
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    )
    assert said == TREATMENTS
