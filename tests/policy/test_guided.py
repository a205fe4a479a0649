"""The method `guided`: what it scores by, in how many bits it stores, what it evicts, and that it answers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache import attention
from prefixkv.cache.row import CacheRow
from prefixkv.chat.conversation import Conversation
from prefixkv.demo import profile_path
from prefixkv.demo.questions import question_set
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.packing import pack, unpack
from prefixkv.methods.evidence import SAMPLE, Evidence, sampled_places
from prefixkv.methods.precedence import with_means, with_newest
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import stored_name
from prefixkv.policy.look_ahead import SPREAD, LookAhead, PlacedQueries, QueryRecorder
from prefixkv.policy.precision import BEARABLE_LOSS, Losses, packed_bits
from prefixkv.policy.rotary import Rotation
from prefixkv.policy.rounding_trial import RoundingTrial, divergence
from prefixkv.profiles.guidance import make_cache
from prefixkv.profiles.profile import LayerProfile
from prefixkv.transformers_compat import cache_argument, cache_in
from tests import reference, tiny


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


def _prefill(model: Any, inputs: dict[str, torch.Tensor], cache: prefixkv.PrefixKVCache) -> None:
    with torch.no_grad():
        model(**inputs, **cache_argument(cache))


def _queries(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Every layer's queries after RoPE, (query_heads, seen_len, head_dim), from a run of the stock model."""
    seen: list[torch.Tensor] = []

    class Recorder(CacheRow):
        def _compact(self, index: int, queries: torch.Tensor, scale: float, keys: torch.Tensor | None = None) -> None:
            seen.append(queries[0])
            super()._compact(index, queries, scale, keys)

    identity = ModelIdentity.of("tiny", model.config, "float32")
    with attention.installed(model):
        _prefill(model, inputs, prefixkv.PrefixKVCache.of_rows([Recorder(identity.geometry, "100%", "full")]))
    return seen


def _look_ahead(model: Any, count: int = 3) -> LookAhead:
    torch.manual_seed(1)
    queries = [torch.randn(4, count, 16) for _ in range(4)]
    return LookAhead(queries, torch.arange(count), Rotation(model))


def test_queries_are_placed_where_the_model_would_ask_them() -> None:
    model, inputs = tiny.llava(), tiny.prompt(40)
    recorder = QueryRecorder(Rotation(model), 4)
    queries = _queries(model, inputs)
    for token in (17, 23, 39):
        for layer in range(4):
            recorder.add(layer, queries[layer][None, :, token : token + 1], token, token - 17)
    payload, count = recorder.payload()
    geometry = ModelIdentity.of("tiny", model.config, "float32").geometry
    look_ahead = LookAhead.read(payload, model, geometry, {})
    assert count == 3
    for layer in range(4):
        expected = queries[layer][:, [17, 23, 39]]
        torch.testing.assert_close(PlacedQueries(look_ahead, 17)[layer][0], expected, atol=5e-3, rtol=5e-3)


def _dealt(cache: prefixkv.PrefixKVCache, peak: torch.Tensor, mean: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The importance that follows from the largest and the mean attention and the values, (kv_heads, tokens)."""
    lengths = values.square().sum(dim=-1).sqrt()
    assert peak.max() < 0.99
    moved = peak / (1 - peak) * (lengths + lengths.sum(dim=-1, keepdim=True) / lengths.shape[-1])
    return with_newest(with_means(moved[None], mean[None]), _newest_len(cache, peak.shape[-1]))[0]


def _newest_len(cache: prefixkv.PrefixKVCache, tokens: int) -> int:
    return cache.method.newest_len(cache.row.capacity.total(tokens, cache.row.bits) // len(cache.layers))


def test_importance_follows_from_the_largest_attention_of_the_question_and_of_the_look_ahead() -> None:
    model, inputs = tiny.llava(), tiny.prompt(90)
    matrices = reference.whole_matrices(model, inputs)
    look_ahead = _look_ahead(model)
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = prefixkv.PrefixKVCache(identity.geometry, 0.25, "guided", look_ahead=look_ahead)
    with torch.no_grad():
        stock = cache_in(model(**inputs)).layers
        keys, values = [layer.keys[0] for layer in stock], [layer.values[0] for layer in stock]
    with attention.installed(model):
        _prefill(model, inputs, cache)
    for layer in range(4):
        question = matrices[layer][:, -64:].reshape(2, 2 * 64, 90)
        placed = PlacedQueries(look_ahead, 90)[layer][0].reshape(2, 6, 16)
        ahead = (placed @ keys[layer].transpose(1, 2) * 16**-0.5).softmax(dim=-1)
        mean = (question.mean(dim=1) + ahead.mean(dim=1)) / 2
        importance = _dealt(cache, torch.maximum(question.amax(dim=1), ahead.amax(dim=1)), mean, values[layer])
        stored = cache.layers[layer]
        assert stored.importance is not None
        kept = cache.kept_positions(layer)[0]
        torch.testing.assert_close(stored.importance[0], importance.gather(1, kept), atol=1e-5, rtol=1e-4)
        evicted = importance.scatter(1, kept, -1.0).amax(dim=1)
        assert (stored.importance[0, :, 1:].amin(dim=1) >= evicted).all(), "something evicted was more important"
        assert kept[:, 0].tolist() == [89, 89], "the newest token is first, and so the last to be evicted"


@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("length", [90, 400])
def test_without_a_profile_importance_follows_from_the_attention_of_the_prompts_own_queries(
    length: int, moves: bool
) -> None:
    model, inputs = tiny.llava(), tiny.prompt(length)
    queries = _queries(model, inputs)
    identity = ModelIdentity.of("tiny", model.config, "float32")
    look_ahead = LookAhead.of_prompts(model) if moves else None
    cache = prefixkv.PrefixKVCache(identity.geometry, 0.25, "guided", look_ahead=look_ahead)
    with torch.no_grad():
        stock = cache_in(model(**inputs)).layers
        keys, values = [layer.keys[0] for layer in stock], [layer.values[0] for layer in stock]
    with attention.installed(model):
        _prefill(model, inputs, cache)
    places = Evidence(torch.arange(length).view(1, 1, -1, 1), torch.zeros(1, 1, length, 1), 1.0).sampled.flatten()
    assert len(set(places.tolist())) == min(length, SAMPLE)
    assert places.diff().min() > 0
    assert places[:3].max() < length // 8, "it is drawn from all of the prompt"
    assert places[-3:].min() > length - length // 8
    for layer in range(4):
        grouped = queries[layer].unflatten(0, (2, 2)) @ keys[layer].unsqueeze(1).transpose(-1, -2) * 16**-0.5
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        asked = grouped.masked_fill(hidden, float("-inf")).softmax(dim=-1)[:, :, -64:]
        ahead = grouped[:, :, places].softmax(dim=-1)
        if look_ahead is not None:
            moved = look_ahead.own(queries[layer][None])[0, :, len(places) :].unflatten(0, (2, 2))
            behind = (moved @ keys[layer].unsqueeze(1).transpose(-1, -2) * 16**-0.5).softmax(dim=-1)
            ahead = torch.cat([ahead, behind], dim=2)
        mean = (asked.mean(dim=(1, 2)) + ahead.mean(dim=(1, 2))) / 2
        peak = torch.maximum(asked.amax(dim=(1, 2)), ahead.amax(dim=(1, 2)))
        importance = _dealt(cache, peak, mean, values[layer])
        kept = cache.kept_positions(layer)[0]
        stored = cache.layers[layer].importance
        assert stored is not None
        torch.testing.assert_close(stored[0], importance.gather(1, kept), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sharpness", [0.3, 1.0])
def test_the_output_of_attention_moves_no_farther_than_importance_says(sharpness: float) -> None:
    """Values have one length, which no output exceeds; sharp queries pay 98 % of their attention to one entry."""
    generator = torch.Generator().manual_seed(5)
    queries, keys, values = (torch.randn(1, 2, count, 16, generator=generator) for count in (8, 60, 60))
    values = 3 * torch.nn.functional.normalize(values[:, :1], dim=-1)
    keys = keys[:, :1]
    logits = sharpness * queries @ keys.mT
    importance = Evidence(queries, keys, sharpness, look_ahead=queries, values=values, text_tail=1).foreseen()[0, 0]
    output = logits.softmax(dim=-1) @ values
    for entry in range(59):
        left = logits.index_fill(3, torch.tensor([entry]), -torch.inf).softmax(dim=-1) @ values
        assert (left - output).norm(dim=-1).amax() <= importance[entry] + 1e-5


def test_the_length_of_a_value_decides_between_entries_that_are_looked_at_alike() -> None:
    keys, values = torch.zeros(1, 1, 40, 8), torch.ones(1, 1, 40, 8)
    values[:, :, 30] *= 5
    values[:, :, 31] *= 0.1
    importance = Evidence(torch.zeros(1, 1, 1, 8), keys, 1.0, values=values, text_tail=1).foreseen()[0, 0, 16:]
    # Each has a fortieth of the attention; the mean of the lengths is 1 + (4 - 0.9) / 40 times that of the others.
    expected = 8**0.5 / 39 * torch.tensor([1 + 1.0775, 5 + 1.0775, 0.1 + 1.0775])
    torch.testing.assert_close(importance[[0, 14, 15]], expected)


def test_a_prompts_own_queries_are_moved_behind_it() -> None:
    model = tiny.llava()
    queries = torch.randn(1, 4, 300, 16, generator=torch.Generator().manual_seed(1))
    rotation, own = Rotation(model), LookAhead.of_prompts(model).own(queries)
    places = sampled_places(300, queries.device)
    assert own.shape == (1, 4, 2 * SAMPLE, 16)
    assert own[:, :, :SAMPLE].equal(queries[:, :, places])
    bare = rotation.turn(queries[0, :, places], places, back=True)
    possible = torch.stack([rotation.turn(bare, torch.full_like(places, 300 + offset)) for offset in range(SPREAD)])
    error = (possible - own[0, :, SAMPLE:]).abs().amax(dim=(1, 3))
    assert error.amin(dim=0).max() < 1e-3
    assert len(set(error.argmin(dim=0).tolist())) > SPREAD // 2, "they are spread"


def test_question_is_the_text_behind_the_picture() -> None:
    evidence = Evidence(torch.zeros(1, 4, 80, 16), torch.zeros(1, 2, 80, 16), 0.25, text_tail=7)
    assert evidence.question.shape[2] == 7
    assert evidence.window.shape[2] == 64


@pytest.mark.parametrize(
    ("dtype", "budget", "bits"),
    [
        ("float32", "50%", 8),
        ("float32", "20%", 4),
        ("bfloat16", "50%", 8),
        ("bfloat16", "20%", 4),
    ],
)
def test_bits_follow_from_what_the_budget_holds(dtype: str, budget: str, bits: int) -> None:
    geometry = KVGeometry(layers=32, kv_heads=8, head_dim=128, dtype=dtype)
    fitting = Budget.parse(budget).room_bytes(geometry, 3000)
    assert packed_bits(geometry, fitting, 32 * 3000, None, Losses({4: 0.0})) == bits
    assert packed_bits(geometry, fitting, 32 * 3000, 4, Losses({4: 0.0})) == 4


@pytest.mark.parametrize("budget", [0.4, 0.15, 0.05])
def test_bytes_stay_within_a_share_while_decoding(budget: float) -> None:
    model, inputs = tiny.llava(), tiny.prompt(300)
    with prefixkv.compress(model, budget, "prefixkv") as plain:
        _prefill(model, inputs, plain)
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = prefixkv.PrefixKVCache(identity.geometry, budget, "guided", look_ahead=_look_ahead(model))
    with attention.installed(model):
        _prefill(model, inputs, cache)
        for step in range(60):
            assert cache.usage().bytes_fraction <= budget + 1e-9
            _prefill(model, {"input_ids": torch.tensor([[step]])}, cache)
        _prefill(model, {"input_ids": torch.arange(30)[None]}, cache)
        assert cache.usage().bytes_fraction <= budget + 1e-9
    entries = [sum(layer.kept_tokens for layer in each.usage().layers) for each in (cache, plain)]
    assert entries[0] > 1.5 * entries[1], "packed entries are smaller, so there are more of them"


def test_a_hard_limit_is_packed_when_it_no_longer_holds_everything() -> None:
    model = tiny.llava()
    limit = 4 * 120 * 2 * 2 * 16 * 4
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = prefixkv.PrefixKVCache(identity.geometry, f"{limit}B", "guided", look_ahead=_look_ahead(model))
    with attention.installed(model):
        _prefill(model, tiny.prompt(100), cache)
        assert [layer.bits for layer in cache.layers] == [None] * 4
        for step in range(3):
            _prefill(model, {"input_ids": torch.arange(40)[None]}, cache)
            assert [layer.bits for layer in cache.layers] == [8] * 4
            assert [layer.kept_tokens for layer in cache.layers] == [140 + 40 * step] * 4
        _prefill(model, {"input_ids": torch.arange(190)[None] % 150}, cache)
        assert cache.usage().kept_bytes <= limit
        first = cache.layers[0].bits
        assert first in (8, 4)
        for step in range(40):
            _prefill(model, {"input_ids": torch.tensor([[step]])}, cache)
            assert cache.usage().allocated_bytes <= limit


def test_packed_entries_are_copied_as_they_are() -> None:
    """What is packed once loses nothing more, however many turns follow."""
    model = tiny.llava()
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = prefixkv.PrefixKVCache(identity.geometry, 0.6, "guided", look_ahead=_look_ahead(model))
    with attention.installed(model):
        _prefill(model, tiny.prompt(100), cache)
        layer = cache.layers[1]
        assert layer.bits == 8
        assert layer.keys is not None
        position = int(cache.kept_positions(1)[0, 0, 1])
        before = layer.keys[0, 0, 1].clone()
        for _ in range(3):
            _prefill(model, {"input_ids": torch.arange(20)[None]}, cache)
        at = cache.kept_positions(1)[0, 0].tolist().index(position)
        assert torch.equal(layer.keys[0, 0, at], before)


def test_decoding_evicts_the_least_important_first() -> None:
    model, inputs = tiny.llava(), tiny.prompt(200)
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = prefixkv.PrefixKVCache(identity.geometry, "20tok", "guided", look_ahead=_look_ahead(model))
    with attention.installed(model):
        _prefill(model, inputs, cache)
        stored = cache.layers[2]
        assert stored.importance is not None
        ranked = cache.kept_positions(2)[0, 0].tolist()
        count = len(ranked)
        assert stored.importance[0, 0, 1:count].tolist() == sorted(
            stored.importance[0, 0, 1:count].tolist(), reverse=True
        )
        slots = [slot for part in cache.method.evictable(count, _newest_len(cache, 200)) for slot in part]
        for step in range(count):
            _prefill(model, {"input_ids": torch.tensor([[step]])}, cache)
            kept = set(cache.kept_positions(2)[0, 0].tolist())
            evicted = {ranked[slot] for slot in slots[: step + 1]}
            assert set(ranked) - evicted <= kept
            assert not evicted & kept


def test_without_a_profile_it_says_so_and_works() -> None:
    model, inputs = tiny.llava(), tiny.prompt(100)
    notices: list[str] = []
    identity = ModelIdentity.of("tiny", model.config, "float32")
    cache = make_cache(model, identity, 0.1, "guided", notices.append)
    said = "guided works without look-ahead queries of a profile, by the prompt's own: there is no profile"
    assert notices == [said + " of 'tiny'; measure one with `prefixkv profile --model tiny`"]
    with attention.installed(model):
        _prefill(model, inputs, cache)
    assert cache.usage().bytes_fraction <= 0.1


def test_a_changed_or_foreign_profile_is_refused(tmp_path: Path, demo: LoadedModel) -> None:
    profile = LayerProfile.load(profile_path())
    copy = tmp_path / "copy.json"
    profile.save(copy)
    queries = next(tmp_path.glob("copy-*.safetensors"))
    saved = LayerProfile.load(copy)
    assert saved.look_ahead is not None
    content = saved.look_ahead.read()
    with pytest.raises(PrefixKVError, match="shape of another model"):
        LookAhead.read(content, demo.model, ModelIdentity.of("x", tiny.llava().config, "float32").geometry, {})
    queries.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PrefixKVError, match="is not the file that was saved with the profile"):
        saved.look_ahead.read()
    queries.unlink()
    with pytest.raises(PrefixKVError, match="there is no file"):
        saved.look_ahead.read()
    with pytest.raises(PrefixKVError, match="look-ahead queries are broken"):
        LookAhead.read(b"nothing", demo.model, demo.geometry, {})


@pytest.mark.exhaustive
def test_the_demo_answers_at_a_tenth_of_the_cache(demo: LoadedModel) -> None:
    right = 0
    asked = [(scene, question) for scene, question in question_set(40, 97) if not question.context]
    asked = [pair for pair in asked if pair[1].kind != "describe"][:24]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scene, question in asked:
            conversation = Conversation(demo, "10%")
            assert conversation.cache.method.name == "guided"
            right += "".join(conversation.ask(question.question, [scene.image])) == question.answer
            assert conversation.usage().bytes_fraction <= 0.1
    assert right >= 22, f"{right} of {len(asked)}"


def test_a_cache_that_keeps_all_reads_no_profile(demo: LoadedModel) -> None:
    notices: list[str] = []
    make_cache(demo.model, demo.identity, "100%", "guided", notices.append)
    make_cache(demo.model, demo.identity, "20%", "prefixkv", notices.append)
    assert notices == []


def _evidence(keys: torch.Tensor, sharpness: float) -> Evidence:
    queries = torch.randn(1, 4, *keys.shape[2:], generator=torch.Generator().manual_seed(2))
    return Evidence(queries, keys, sharpness * keys.shape[3] ** -0.5)


def _tried(*layers: Evidence) -> Losses:
    trial = RoundingTrial(len(layers))
    for layer in layers:
        assert not trial.is_done
        trial.add(layer)
    assert trial.is_done
    return trial.losses()


def test_divergence_is_that_of_the_attention_to_rounded_keys() -> None:
    keys = torch.randn(1, 2, 40, 64, generator=torch.Generator().manual_seed(1))
    evidence = _evidence(keys, 2.0)
    expected = []
    for head in range(4):
        exact = (evidence.queries[0, head] @ keys[0, head // 2].T * evidence.scale).softmax(dim=-1)
        rounded = unpack(pack(keys[0, head // 2], 4), 4, keys.dtype)
        expected.append(
            exact * (exact / (evidence.queries[0, head] @ rounded.T * evidence.scale).softmax(dim=-1)).log()
        )
    assert float(divergence(evidence, 4)) == pytest.approx(float(torch.stack(expected).sum(dim=-1).mean()), rel=1e-3)


def test_without_a_profile_the_prompt_says_in_how_few_bits_it_may_be_stored() -> None:
    """Sharp attention diverges further, and large, nearly constant elements take the steps of the rounding."""
    keys = torch.randn(1, 2, 300, 64, generator=torch.Generator().manual_seed(1))
    blunt, sharp = _evidence(keys, 0.5), _evidence(keys, 3.0)
    assert set(_tried(blunt, blunt).rounding) == {84, 4, 42, 2}
    assert set(_tried(sharp, sharp).rounding) == {84, 4, 42}
    assert set(_tried(blunt).rounding) == {84, 4}, "one layer does not tell enough for 2 bits"
    biased = keys.clone()
    biased[:, 1, :, 7] += 100
    assert set(_tried(_evidence(biased, 3.0), sharp).rounding) == {84}, "such keys bear 8 bits"
    lost = _tried(blunt, blunt).rounding
    assert lost[42] == pytest.approx(lost[4] + lost[2] / 8)
    assert lost[84] == pytest.approx(lost[4] / 8)
    assert lost[4] < lost[42] < lost[2] <= BEARABLE_LOSS


@pytest.mark.parametrize("fractions", [None, (0.3, 0.2, 0.2, 0.1)])
def test_layers_that_are_tried_are_stored_as_they_would_have_been(fractions: tuple[float, ...] | None) -> None:
    """The bits that the trial finds, given beforehand, lead to the same entries, in one turn and the next."""
    model = tiny.llava()
    identity = ModelIdentity.of("tiny", model.config, "float32")
    for budget, turns in ((0.4, 2), (0.1, 2), (0.03, 1), ("25000B", 2)):
        tried = prefixkv.PrefixKVCache(identity.geometry, budget, "guided", fractions)
        with attention.installed(model):
            _prefill(model, tiny.prompt(200), tried)
            first = tried.layers[0].bits
            codec = stored_name(first, False)
            known = prefixkv.PrefixKVCache(identity.geometry, budget, "guided", fractions, codec=codec)
            _prefill(model, tiny.prompt(200), known)
            for cache in (tried, known) if turns == 2 else ():
                _prefill(model, {"input_ids": torch.arange(30)[None] % 90}, cache)
        if tried.layers[0].bits != first:
            continue
        for one, other in zip(tried.layers, known.layers, strict=True):
            for part in ("keys", "values", "positions", "importance"):
                assert torch.equal(getattr(one, part), getattr(other, part)), (budget, part)
        assert tried.usage().kept_bytes <= tried.usage().full_bytes


def test_models_without_a_profile_store_little_in_few_bits() -> None:
    model = tiny.llava()
    identity = ModelIdentity.of("tiny", model.config, "float32")
    bits = []
    for budget in (0.6, 0.3, 0.1):
        cache = prefixkv.PrefixKVCache(identity.geometry, budget, "guided")
        with attention.installed(model):
            _prefill(model, tiny.prompt(200), cache)
        bits.append(cache.layers[0].bits)
        assert cache.usage().bytes_fraction <= budget
    assert bits == sorted(bits, reverse=True)
    assert bits[0] == 8
    assert bits[-1] == 2
