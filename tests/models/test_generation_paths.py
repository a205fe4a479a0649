"""What a generation_config.json asks for has one answer, by whichever way the question comes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import prefixkv
from prefixkv.chat.context import load_context, save_context
from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError
from prefixkv.generation.detokenization import decoded
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.stop_text import before_stop, stop_texts
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.generation_settings import TREATMENTS
from prefixkv.models.loading import LoadedModel, load_model
from tests.cli.program import run_here
from tests.families import tiny_models

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
    "_commit_hash": "0123",
    "_from_model_config": True,
    "assistant_confidence_threshold": 0.2,
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "assistant_lookbehind": 5,
    "bos_token_id": 6,
    "cache_config": {"nbits": 4},
    "compile_config": {"dynamic": True},
    "constraints": [1],
    "continuous_batching_config": {"block_size": 16},
    "decoder_start_token_id": 6,
    "disable_compile": True,
    "dola_layers": "low",
    "early_stopping": True,
    "force_words_ids": [[7]],
    "is_assistant": True,
    "length_penalty": 3.0,
    "low_memory": True,
    "max_cache_len": 64,
    "max_matching_ngram_size": 3,
    "num_assistant_tokens": 4,
    "num_assistant_tokens_schedule": "heuristic",
    "num_beam_groups": 2,
    "output_hidden_states": True,
    "output_logits": True,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "speculation_type": "dflash",
    "target_lookbehind": 5,
    "token_healing": True,
    "transformers_version": "4.1.0",
    "use_mtp": True,
}
"""A value for each attribute that would tell if it had an effect."""
CHANGES = {
    *("bad_words_ids", "begin_suppress_tokens", "eos_token_id", "exponential_decay_length_penalty"),
    *("forced_eos_token_id", "no_repeat_ngram_size", "repetition_penalty", "sequence_bias", "suppress_tokens"),
    *("stop_strings", "watermarking_config"),
}
"""Attributes whose values above give another answer with this model."""
REFUSED = {"compile_config", "num_return_sequences"}
"""Attributes whose values above transformers itself refuses in a file."""
OTHERWISE_IN_GENERATE = {
    *("assistant_early_exit", "cache_implementation", "compile_config", "constraints", "force_words_ids", "num_beams"),
    *("is_assistant", "prefill_chunk_size", "prompt_lookup_num_tokens", "stop_strings", "use_cache", "use_mtp"),
}
"""Attributes by which stock `generate` does not read one row into a cache that it is given, one token after the other.

It refuses the cache or leaves it aside, reads in pieces, guesses ahead, wants to be asked by another model, or asks for
a tokenizer of parts of words, which this model's is not.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model, which never ends an answer by itself."""
    made, tiny = tmp_path_factory.mktemp("model"), tiny_models.llama()
    head: Any = tiny.model.get_output_embeddings()
    # A file has no place for the bias by which special tokens never come; logits near 0 are never the highest, too.
    head.weight.data[head.bias < 0] *= 0.01
    head.bias = None
    tiny.model.save_pretrained(made)
    tiny.processor.save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    """Of this model's own generation_config.json."""
    return json.loads((folder / "generation_config.json").read_text())


@pytest.fixture(scope="module")
def usual(folder: Path, settings: dict[str, Any]) -> tuple[list[int], list[str], str]:
    """Tokens, words and text of the answer where nothing is asked for."""
    loaded = load_model(str(folder), device="cpu")
    tokens = _tokens(loaded)
    return tokens, decoded(loaded.tokenizer, tokens).split(), _by_engine(loaded)


def _tokens(loaded: LoadedModel) -> list[int]:
    with prefixkv.Engine(loaded, METHOD) as engine:
        return engine.submit(Prompt(loaded.processor, [Turn(QUESTION)]), BUDGET, SAMPLING).result()


def _by_engine(loaded: LoadedModel) -> str:
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


def _by_program(folder: Path, work: Path) -> tuple[list[str], str]:
    """The first answer of `chat` and of `batch`; and what they say beside it."""
    options = ["--model", str(folder), "--budget", BUDGET, "--method", METHOD, "--device", "cpu"]
    options += ["--max-new-tokens", str(SAMPLING.max_new_tokens)]
    (work / "lines.jsonl").write_text(json.dumps({"prompt": QUESTION}))
    chat = run_here("chat", "-p", QUESTION, *options)
    batch = run_here("batch", "lines.jsonl", "--out", "-", *options, cwd=work)
    assert [chat.returncode, batch.returncode] == [0, 0], chat.stderr + batch.stderr
    return [chat.stdout.strip(), json.loads(batch.stdout)["answer"]], chat.stderr + batch.stderr


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
@pytest.mark.parametrize("attribute", sorted(vars(GenerationConfig())))
def test_one_answer_by_every_way(
    folder: Path,
    settings: dict[str, Any],
    usual: tuple[list[int], list[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str,
) -> None:
    tokens, words, plain = usual
    value = _telling(VALUES[attribute], tokens, words if attribute == "stop_strings" else None)
    (folder / "generation_config.json").write_text(json.dumps(settings | {attribute: value}))
    notices: list[str] = []
    if attribute in REFUSED:
        with pytest.raises(PrefixKVError, match=attribute):
            load_model(str(folder), "cpu")
        return
    loaded = load_model(str(folder), "cpu", notify=notices.append)
    monkeypatch.setattr("prefixkv_cli.model_loading.load_model", lambda *_: loaded)
    first, second, opened = _by_conversation(loaded, tmp_path)
    assert _by_program(folder, tmp_path)[0] == [first, first]
    assert first == _by_engine(loaded)
    assert second == opened
    assert any(attribute in notice for notice in notices) == (TREATMENTS[attribute] == "said")
    assert (first != plain) == (attribute in CHANGES)
    if TREATMENTS[attribute] != "said" and attribute not in OTHERWISE_IN_GENERATE:
        assert first == _by_generate(loaded)


def test_every_attribute_is_known() -> None:
    assert set(TREATMENTS) == set(VALUES)


def test_the_page_has_every_attribute() -> None:
    said = dict(
        line.strip("| ").replace("`", "").split(" | ")
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    )
    assert said == TREATMENTS
