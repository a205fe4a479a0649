"""Configurations: exact searches, other models refused, the release's files, and use in a cache."""

from __future__ import annotations

import dataclasses
import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
import torch

import prefixkv
from prefixkv.errors import BudgetTooSmallError, OptionError, PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile, average_curve
from prefixkv.transformers_compat import cache_argument
from tests import tiny

LLAVA = ModelIdentity("llava-hf/llava-1.5-7b-hf", None, KVGeometry(32, 32, 128, "float16"), None)


def profile_of(model: ModelIdentity, seed: int = 0) -> LayerProfile:
    chance = random.Random(seed)
    layers = []
    for _ in range(model.geometry.layers):
        weights = sorted((chance.random() ** chance.choice((1, 5, 20)) for _ in range(300)), reverse=True)
        total, sums = sum(weights), [0.0]
        for weight in weights:
            sums.append(sums[-1] + weight / total)
        layers.append(average_curve([sums[1:]]))
    return LayerProfile(model, "accumulated", "random", ({},), tuple(layers), "a test")


@pytest.mark.parametrize("budget", ["20%", "4GB", "300tok", "3%"])
@pytest.mark.parametrize("context", [16, 640, 4096])
def test_searched_shares_are_the_budget_exactly(budget: str, context: int) -> None:
    config = PrefixConfig.search(budget, LLAVA, context, batch=2, method="prefixkv", profile=profile_of(LLAVA))
    total = min(32 * context, prefixkv.Budget.parse(budget).entries(LLAVA.geometry, context, 2))
    assert sum(config.kept_tokens()) == max(total, 2 * 32)
    assert config.as_budget().entries(LLAVA.geometry, context) == sum(config.kept_tokens())
    assert all(0 < fraction <= 1 for fraction in config.keep_fractions)


def test_llava_numbers() -> None:
    config = PrefixConfig.search("4GB", LLAVA, 4096, batch=32, allocation_name="uniform")
    assert LLAVA.geometry.token_bytes * 4096 * 32 == 64 * 2**30
    # Beside 16,384 bytes of key and value: 32 heads' positions and importance, and a slot of the queue.
    assert round(100 * config.budget["kept_tokens_fraction"], 1) == 5.7
    assert config.budget["bytes"] <= 4 * 10**9


def test_prefix_needs_a_profile_and_budgets_have_a_floor() -> None:
    with pytest.raises(OptionError, match="prefixkv profile"):
        PrefixConfig.search("20%", LLAVA, 100)
    with pytest.raises(BudgetTooSmallError):
        PrefixConfig.search("1KiB", LLAVA, 100, allocation_name="uniform")


def test_a_cache_keeps_the_configured_shares() -> None:
    model, inputs = tiny.llava(), tiny.prompt(200)
    identity = ModelIdentity.of("tiny", model.config, "float32")
    config = PrefixConfig.search("25%", identity, 200, method="prefixkv", profile=profile_of(identity, seed=3))
    with prefixkv.compress(model, config) as cache, torch.no_grad():
        model(**inputs, **cache_argument(cache))
        assert [layer.kept_tokens for layer in cache.layers] == config.kept_tokens()
    assert len(set(config.kept_tokens())) > 1


def test_another_model_is_refused_with_what_differs() -> None:
    model = tiny.llava()
    identity = ModelIdentity.of("tiny", model.config, "float32")
    other = ModelIdentity("other", None, KVGeometry(4, 4, 16, "float32"), "feedfeedfeedfeed")
    config = PrefixConfig.search("25%", other, 200, profile=profile_of(other))
    with (
        pytest.raises(PrefixKVError, match="kv_heads 4 instead of 2; fingerprint feed"),
        prefixkv.compress(model, config),
    ):
        pass
    assert ModelIdentity.of("same", tiny.llava(seed=9).config, "bfloat16").differences(identity) == []
    assert ModelIdentity.of("deeper", tiny.llava(layers=5).config, "float32").differences(identity)


@pytest.mark.parametrize("seed", range(10))
def test_release_lists_come_back_bit_for_bit(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    forgotten = [chance.choice((0.0, chance.random() * 0.9925, 0.28, 1e-17)) for _ in range(32)]
    (tmp_path / "release.json").write_text(json.dumps(forgotten), encoding="utf-8")
    first = PrefixConfig.from_release(tmp_path / "release.json", LLAVA, "x", 626)
    first.save(tmp_path / "config.json")
    second = PrefixConfig.load(tmp_path / "config.json")
    assert second == first
    assert second.to_release() == forgotten
    assert second.keep_fractions == pytest.approx([1 - value for value in forgotten])


@pytest.mark.parametrize("content", ["[0.5]", "{}", "[" + "1.0," * 31 + "0.5]", "[" + '"a",' * 31 + "0.5]", "[NaN]"])
def test_what_is_no_release_list_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "release.json").write_text(content, encoding="utf-8")
    with pytest.raises(PrefixKVError, match=r"release\.json"):
        PrefixConfig.from_release(tmp_path / "release.json", LLAVA, "x", 626)


def test_a_configuration_of_the_format_before_codecs_is_read(tmp_path: Path) -> None:
    old = PrefixConfig.load(Path(__file__).parent / "samples" / "config-1.json")
    assert (old.codec, old.method, sum(old.kept_tokens())) == ("auto", "guided", 1600)
    # It counts the bytes of its model's float32.
    assert old.budget["bytes"] == 1600 * old.model.geometry.counted_bytes
    assert old.as_budget().amount == Fraction(1, 5)
    packed = dataclasses.replace(old, codec="int4")
    packed.save(tmp_path / "new.json")
    assert PrefixConfig.load(tmp_path / "new.json") == packed


def test_an_unknown_codec_in_a_configuration_is_one_line(tmp_path: Path) -> None:
    old = PrefixConfig.load(Path(__file__).parent / "samples" / "config-1.json")
    dataclasses.replace(old, codec="int3").save(tmp_path / "new.json")
    with pytest.raises(PrefixKVError, match="codec 'int3' is not known"):
        PrefixConfig.load(tmp_path / "new.json")
