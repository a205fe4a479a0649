"""A picture of a profile: the Lorenz curves of all layers and what they keep."""

from __future__ import annotations

from pathlib import Path

from prefixkv.errors import PrefixKVError
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile

BUDGETS = ("50%", "20%", "10%")
CONTEXT_TOKENS = 1000


def draw_profile(profile: LayerProfile, path: Path) -> None:
    """Draw the cumulative importance of every layer, and the kept fractions at three budgets.

    Args:
        profile: what was measured.
        path: a .png or .svg file.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curves, shares) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    colours = matplotlib.colormaps["viridis"]
    for index, layer in enumerate(profile.layers):
        steps = [100 * step / (len(layer.curve) - 1) for step in range(len(layer.curve))]
        colour = colours(index / max(1, len(profile.layers) - 1))
        curves.plot(steps, layer.curve, color=colour, linewidth=1, label=f"layer {index}")
    curves.set(xlabel="entries, most important first (%)", ylabel="cumulative importance", title=profile.model.id)
    if len(profile.layers) <= 16:
        curves.legend(fontsize="small")
    for budget in BUDGETS:
        kept = PrefixConfig.search(budget, profile.model, CONTEXT_TOKENS, profile=profile).keep_fractions
        shares.step(range(len(kept)), kept, where="mid", label=f"budget {budget}")
    shares.set(xlabel="layer", ylabel="kept fraction", ylim=(0, 1.02), title="one threshold for all layers")
    shares.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise PrefixKVError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        pyplot.close(figure)
