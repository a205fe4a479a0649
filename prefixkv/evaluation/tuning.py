"""Find the smallest budget whose answers stay within a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from prefixkv.evaluation.perplexity import own_answers, perplexity
from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.loading import LoadedModel
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv.profiles.calibration import Sample
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.guidance import make_cache
from prefixkv.profiles.profile import LayerProfile

ANSWER_TOKENS = 64


def smallest_budget(
    loaded: LoadedModel,
    held_out: list[Sample],
    tolerance: Fraction,
    profile: LayerProfile | None = None,
    method: str = DEFAULT_METHOD,
    progress: Callable[[str], None] = lambda text: None,
    codec: str = DEFAULT_CODEC,
) -> Budget:
    """The smallest whole percentage at which held-out perplexity rises by no more than the tolerance.

    Bisection over 1 .. 100 %, so seven measurements; it takes perplexity to fall as the budget grows.

    Args:
        loaded: the model.
        held_out: samples that the profile was not made from; the references are the model's own full-cache answers.
        tolerance: allowed rise, as a share of the full cache's perplexity.
        profile: shares the budget by its curves; equal layers where None.
        method: name of the method.
        progress: called with a line for every measurement.
        codec: name of the codec.
    """
    references = own_answers(loaded, held_out, ANSWER_TOKENS)

    def measured(percent: int) -> float:
        config = PrefixConfig.search(
            f"{percent}%",
            loaded.identity,
            1000,
            allocation_name="prefix" if profile else "uniform",
            method=method,
            profile=profile,
            codec=codec,
        )
        return perplexity(
            loaded,
            references,
            lambda: make_cache(loaded.model, loaded.identity, config, method, progress),
        )

    full = measured(100)
    progress(f"full cache: perplexity {full:.4f}")
    too_small, enough = 0, 100
    while enough - too_small > 1:
        percent = (too_small + enough) // 2
        value = measured(percent)
        good = value <= full * (1 + float(tolerance))
        progress(f"{percent}%: perplexity {value:.4f} ({value / full - 1:+.2%})")
        too_small, enough = (too_small, percent) if good else (percent, enough)
    return Budget.parse(f"{enough}%")
