"""Every family, as a small random model of its own kind, on a compressed cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.errors import PrefixKVError
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models import families as listed
from prefixkv.models.decoder_weights import LLAMA_LIKE, DecoderWeights, UnknownDecoderError
from prefixkv.models.facts import model_facts
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.rotary import Rotation
from prefixkv.profiles.calibration import Sample
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile
from prefixkv.transformers_compat import cache_argument, decoder_of
from tests.families import table
from tests.families.all_families import FAMILIES
from tests.families.checks import CHECKS, loaded, turns
from tests.families.newer_models import NEWER
from tests.families.tiny_models import Tiny


def _tiny(family: str) -> Tiny:
    """A small model of a family; where the installed transformers cannot read its pictures, the test is skipped."""
    try:
        return FAMILIES[family]()
    except ImportError as error:
        reason = " ".join(str(error).split())[:60]
        pytest.skip(f"{family} needs a package of its own here: {reason}")


@pytest.mark.parametrize("method", ["expected", "mixkv", "triattention"])
@pytest.mark.parametrize("family", ["Kimi K2.6", "SmolLM"])
def test_values_may_be_latents_and_a_rotation_unknown(family: str, method: str) -> None:
    tiny, notices = _tiny(family), list[str]()
    talk = Conversation(loaded(tiny), "60%", method, sampling=Sampling(3), notify=notices.append)
    for turn in turns(tiny, ("", "")):
        assert "".join(talk.ask(turn.prompt, turn.images))
    assert all(layer.kept_tokens < layer.seen_tokens for layer in talk.cache.usage().layers)
    is_said = any(notice.startswith("expected takes queries where they are") for notice in notices)
    assert is_said == (family == "SmolLM" and method == "expected")


@pytest.mark.exhaustive(keep=27)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str, check: Callable[[Tiny], None]) -> None:
    check(_tiny(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_layers_are_made_or_refused_by_a_reason(family: str) -> None:
    """On a GPU every model is asked whether its decoder is one that is read in fused layers."""
    model = _tiny(family).model
    layers = decoder_of(model).layers
    if type(layers[0]).__name__ in LLAMA_LIKE:
        assert len(DecoderWeights.of(model).layers) == len(layers)
    else:
        with pytest.raises(UnknownDecoderError, match="its layers are"):
            DecoderWeights.of(model)


def test_every_family_that_is_listed_is_tested() -> None:
    assert [family.name for family in listed.FAMILIES] == list(FAMILIES)


def test_page_shows_the_table() -> None:
    page = table.PAGE.read_text(encoding="utf-8")
    assert table.block({name: dict.fromkeys(CHECKS, True) for name in FAMILIES}) in page, "run: make families"


@pytest.mark.exhaustive(keep=3)
@pytest.mark.parametrize("family", ["Gemma 3", "Aya Vision", "LLaVA-1.5", "Llama 4", "Kimi K2.6", "Qwen3.5"])
def test_profile_and_configuration_know_the_windows(family: str, tmp_path: Path) -> None:
    """They count compressed layers only, come back from their files, and refuse a model with other windows.

    What `guided` looks ahead with is measured, too.
    """
    tiny = _tiny(family)
    model = loaded(tiny)
    profile = LayerProfile.measure(model, [Sample("ba ce di fo", tiny.pictures[0])], "one picture", answer_tokens=12)
    assert profile.look_ahead is not None
    config = PrefixConfig.search("30%", profile.model, context_tokens=60, profile=profile)
    config.save(tmp_path / "config.json")
    again = PrefixConfig.load(tmp_path / "config.json")
    assert len(again.keep_fractions) == model.geometry.layers
    assert again.model == model.identity
    with prefixkv.compress(tiny.model, again) as cache:
        inputs = Prompt(tiny.processor, [Turn("ba ce di fo gu", tiny.pictures[:1])]).inputs
        tiny.model.generate(**inputs, **cache_argument(cache), max_new_tokens=5, do_sample=False)
        assert len(cache.usage().layers) == model.geometry.layers
    other = dataclasses.replace(model.geometry, window_layers=(), window_tokens=0)
    if tiny.window_layers:
        with pytest.raises(PrefixKVError, match="window_layers"):
            again.require_model(dataclasses.replace(model.identity, geometry=other, fingerprint=None))


def test_info_says_of_a_file_what_a_model_of_it_holds(tmp_path: Path) -> None:
    """The bytes of a run are those of this geometry, layer by layer (`bytes = budget`), and `info` reads a file."""
    for family in NEWER:
        try:
            tiny = _tiny(family)
        except pytest.skip.Exception:
            continue
        tiny.model.config.save_pretrained(tmp_path / family)
        facts = model_facts(str(tmp_path / family))
        assert facts.geometry == loaded(tiny).geometry, family
        held = facts.as_dict()
        assert held["window_bytes"] + held["state_bytes"] == facts.geometry.left_bytes


def test_queries_of_layers_that_do_not_rotate_are_asked_as_they_are() -> None:
    """Llama 4's compressed layers have no positions; where some rotate and others do not, there is no one way."""
    query, positions = torch.randn(4, 3, 16), torch.tensor([1, 50, 900])
    assert Rotation(_tiny("Llama 4").model).turn(query, positions).equal(query)
    with pytest.raises(PrefixKVError, match="does not rotate its queries in every layer"):
        Rotation(_tiny("SmolLM").model)


REFUSED = {
    "mllama": ({"model_type": "mllama"}, "cross-attention"),
    "mamba": ({"model_type": "mamba"}, "state of fixed size"),
    "lfm2": ({"model_type": "lfm2", "layer_types": ["conv", "conv"], "num_hidden_layers": 2}, "state of fixed size"),
    "deepseek_v32": ({"model_type": "deepseek_v32"}, "index of their own"),
    "deepseek_v4": ({"model_type": "deepseek_v4"}, "a way of their own"),
    "diffusion_gemma": ({"model_type": "diffusion_gemma"}, "token by token"),
    "git": ({"model_type": "git"}, "code of its own"),
    "blip-2": ({"model_type": "blip-2"}, "a picture in every pass"),
    "blip": ({"model_type": "blip"}, "cross-attention"),
    "mistral": ({"model_type": "mistral"}, "sliding window"),
    "t5": ({"model_type": "t5"}, "encoder-decoder"),
}


@pytest.mark.parametrize(("settings", "reason"), REFUSED.values(), ids=REFUSED)
def test_family_that_cannot_work_is_refused_by_name(settings: dict[str, Any], reason: str) -> None:
    config = AutoConfig.for_model(**settings)
    with pytest.raises(PrefixKVError, match=reason) as refusal:
        KVGeometry.of(config, "float32")
    assert str(refusal.value).startswith(settings["model_type"].removesuffix("_text"))
