"""What rounding a prompt costs a model, and the bits that follow from it."""

from __future__ import annotations

import pytest
import torch

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.generation.sampling import Sampling
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.layer_sizes import EntryShape
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.policy.precision import BEARABLE_LOSS, SLIGHT_LOSS, packed_bits
from prefixkv.profiles import rounding
from prefixkv.profiles.calibration import drawn_samples
from prefixkv.profiles.profile import LayerProfile
from prefixkv.transformers_compat import cache_argument, cache_in
from tests import tiny

GEOMETRY = KVGeometry(32, 32, 128, "bfloat16")


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", [4, 2])
def test_loss_is_that_of_the_rounded_prompt(bits: int, demo: LoadedModel) -> None:
    """Against the same by hand: the answer in one pass behind a whole and behind a rounded prompt."""
    (sample,) = drawn_samples(1, first_seed=71)
    assert sample.image is not None
    inputs = demo.on_device(Prompt(demo.processor, [Turn(sample.prompt, (sample.image,))]).inputs)
    prompt_len = inputs["input_ids"].shape[1]
    with torch.no_grad():
        answer = demo.model.generate(**inputs, max_new_tokens=40, do_sample=False)[0, prompt_len:]
        nats, tokens = rounding.rounding_losses(demo.model, inputs, answer, demo.geometry.shape)
        predictions = []
        for is_rounded in (False, True):
            cache = cache_in(demo.model(**inputs, use_cache=True))
            for layer in cache.layers if is_rounded else ():
                layer.keys, layer.values = (
                    rounding.unpack(rounding.pack(part, bits), bits, part.dtype) for part in (layer.keys, layer.values)
                )
            logits = demo.model(input_ids=answer[None, :-1], **cache_argument(cache), use_cache=True).logits[0]
            predictions.append(logits.float().log_softmax(dim=-1))
    assert tokens == len(answer) - 1
    whole, rounded = predictions
    assert nats[bits] == pytest.approx(float((whole.exp() * (whole - rounded)).sum()), rel=1e-3, abs=1e-6)
    assert nats[bits] > 0


@pytest.mark.exhaustive
def test_profile_says_what_the_model_bears(demo: LoadedModel) -> None:
    (sample,) = drawn_samples(1, first_seed=71)
    profile = LayerProfile.measure(demo, [sample], "one scene", answer_tokens=30)
    assert 0 < profile.rounding_losses[4] < profile.rounding_losses[2] < SLIGHT_LOSS


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(("budget", "bits"), [("5%", 2), ("20%", 4), ("50%", 8)])
def test_the_demo_stores_in_bits_that_it_bears(budget: str, bits: int, demo: LoadedModel) -> None:
    (sample,) = drawn_samples(1, first_seed=73)
    assert sample.image is not None
    conversation = Conversation(demo, budget, "guided", Sampling(24))
    for question, images in ((sample.prompt, [sample.image]), ("How many objects are there?", [])):
        list(conversation.ask(question, images))
        assert conversation.cache.row.bits == bits
        assert {layer.bits for layer in conversation.cache.layers} == {bits}
        usage = conversation.usage()
        assert usage.kept_bytes <= float(budget.rstrip("%")) / 100 * usage.full_bytes


LITTLE, SOME, MUCH = SLIGHT_LOSS, BEARABLE_LOSS, BEARABLE_LOSS * 1.01


@pytest.mark.parametrize(
    ("losses", "bits"),
    [
        ({}, [8, 8, 8, 8, 8, 8]),
        ({4: LITTLE}, [8, 4, 4, 4, 4, 4]),
        ({4: LITTLE, 2: LITTLE}, [8, 4, 4, 2, 2, 2]),
        ({4: LITTLE, 2: SOME}, [8, 4, 4, 4, 4, 2]),
        ({4: SOME, 2: MUCH}, [8, 8, 8, 8, 4, 4]),
        ({4: MUCH, 2: LITTLE}, [8, 8, 8, 8, 8, 8]),
        ({2: LITTLE}, [8, 8, 8, 8, 8, 8]),
    ],
)
def test_bits_follow_from_what_the_budget_holds_and_the_model_loses(losses: dict[int, float], bits: list[int]) -> None:
    def packed(budget: str, before: int | None = None) -> int:
        return packed_bits(GEOMETRY, Budget.parse(budget).room_bytes(GEOMETRY, 3000), 32 * 3000, before, losses)

    assert [packed(budget) for budget in ("50%", "20%", "16%", "15.4%", "15%", "5%")] == bits
    assert [packed("50%", before) for before in (8, 4, 2)] == [8, 4, 2]


def test_a_row_is_whole_bytes() -> None:
    odd = KVGeometry(32, 32, 90, "bfloat16")
    assert packed_bits(odd, 100, 32 * 3000, None, {4: 0.0, 2: 0.0}) == 4


def test_a_model_with_a_few_great_keys_is_not_stored_in_four_bits() -> None:
    """Keys with a constant part far larger than what tells them apart, as Qwen2's biases make them."""
    model, inputs = tiny.llama(layers=4), {"input_ids": tiny.text(200)}
    answer = model.generate(**inputs, max_new_tokens=20, min_new_tokens=20, do_sample=False)[0, 200:]
    usual = rounding.rounding_losses(model, inputs, answer, EntryShape(2, 16, 16))[0]
    for layer in model.model.layers:
        projection = layer.self_attn.k_proj
        projection.bias = torch.nn.Parameter(torch.zeros(projection.out_features))
        with torch.no_grad():
            projection.bias[15::16] = 300.0
    great = rounding.rounding_losses(model, inputs, answer, EntryShape(2, 16, 16))[0]
    assert great[4] > 20 * usual[4]
