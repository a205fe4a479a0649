"""Profiles of real runs against whole attention matrices, and their stability on the demo model."""

from __future__ import annotations

import pytest

import prefixkv
from prefixkv.errors import PrefixKVError
from prefixkv.evaluation.perplexity import own_answers, perplexity
from prefixkv.inputs.prompts import Prompt, Turn
from prefixkv.models.loading import LoadedModel
from prefixkv.profiles.calibration import drawn_samples
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile, average_curve
from prefixkv.profiles.profiling import measure
from tests import reference


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.mark.exhaustive
def test_curves_are_those_of_the_whole_matrices(demo: LoadedModel) -> None:
    (sample,) = drawn_samples(1, first_seed=70)
    assert sample.image is not None
    profile = measure(demo, [sample], "one scene", answer_tokens=2)
    matrices = reference.whole_matrices(
        demo.model, Prompt(demo.processor, [Turn(sample.prompt, (sample.image,))]).inputs
    )
    for layer, matrix in zip(profile.layers, matrices, strict=True):
        importance = matrix.double().mean(dim=0).sum(dim=0).sort(descending=True).values
        expected = (importance / importance.sum()).cumsum(0)
        # A profile has a point every 0.1 %, so steep curves are cut short a little between two ranks of 0.17 %.
        assert list(layer.at(len(expected))) == pytest.approx(expected.tolist(), abs=5e-3)
        ranks = range(1, len(expected) + 1)
        gini = 1 - 2 * sum(
            (len(expected) - rank + 0.5) * float(v) for rank, v in zip(ranks, importance.flip(0), strict=True)
        ) / (len(expected) * float(importance.sum()))
        assert layer.gini == pytest.approx(gini, abs=1e-3)


@pytest.mark.exhaustive
def test_two_calibration_sets_give_nearly_the_same_shares(demo: LoadedModel) -> None:
    """The paper's claim that a layer's curve is stable: 10 samples each, none in common."""
    shares = []
    for first_seed in (100, 200):
        profile = measure(demo, drawn_samples(10, first_seed), "drawn", answer_tokens=1)
        shares.append(PrefixConfig.search("20%", profile.model, 1000, profile=profile).keep_fractions)
    assert max(abs(one - other) for one, other in zip(*shares, strict=True)) < 0.03


def test_nan_and_no_samples_are_refused(demo: LoadedModel) -> None:
    with pytest.raises(PrefixKVError, match="NaN"):
        average_curve([[float("nan")] * 5])
    with pytest.raises(PrefixKVError, match="no samples"):
        LayerProfile.measure(demo, [], "nothing")


@pytest.mark.exhaustive
def test_perplexity_rises_as_the_budget_falls(demo: LoadedModel) -> None:
    references = own_answers(demo, drawn_samples(2, first_seed=301), 24)
    values = [
        perplexity(demo, references, lambda budget=budget: prefixkv.PrefixKVCache(demo.geometry, budget))
        for budget in ("100%", "50%", "5%")
    ]
    assert 1.0 <= values[0] < 1.2
    assert values[0] < values[2]
