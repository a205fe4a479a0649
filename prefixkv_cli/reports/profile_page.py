"""The page of a profile: the cumulative importance of all layers, and what each keeps at a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile
from prefixkv_cli.plots.profile_plot import CONTEXT_TOKENS
from prefixkv_cli.reports.page import TEMPLATE, figure, heading, notes, wide, write_page

BUDGETS = ("80%", "50%", "30%", "20%", "10%", "5%")
FIRST_BUDGET = BUDGETS.index("20%")
_POINTS = 200
"""Steps of a drawn curve; a profile has more than a screen has pixels for."""
_HEIGHT = 460


def write_profile(profile: LayerProfile, path: Path) -> None:
    """Write the page: the layers' curves, the kept fractions with a slider over budgets, and the table.

    Args:
        profile: what was measured.
        path: a .html file.

    Raises:
        PrefixKVError: the file cannot be written.
    """
    samples = f"{len(profile.samples)} sample{'' if len(profile.samples) == 1 else 's'}"
    write_page(
        path,
        f"Layer profile of {profile.model.id}",
        [
            notes([f"{samples} ({profile.source}), importance scored by {profile.scorer}."]),
            heading("How concentrated the importance is"),
            figure(_curves(profile), "curves"),
            notes(["A click on a layer hides it, a double click shows it alone."]),
            heading("What each layer keeps under one threshold for all"),
            figure(_shares(profile), "shares"),
            notes([f"Of {CONTEXT_TOKENS:,} tokens, before entries are stored in fewer bits."]),
            heading("All layers"),
            wide(profile._repr_html_()),
        ],
    )


def _curves(profile: LayerProfile) -> Any:
    from plotly.colors import sample_colorscale
    from plotly.graph_objects import Figure

    drawn, last = Figure(), max(1, len(profile.layers) - 1)
    for index, layer in enumerate(profile.layers):
        end = len(layer.curve) - 1
        steps = sorted({round(end * point / _POINTS) for point in range(_POINTS + 1)})
        drawn.add_scatter(
            x=[100 * step / end for step in steps],
            y=[100 * layer.curve[step] for step in steps],
            name=f"layer {index}",
            mode="lines",
            line={"width": 1.5, "color": sample_colorscale("Viridis", index / last)[0]},
            hovertemplate=f"layer {index}: %{{x:.1f}} % of the entries hold %{{y:.1f}} %<extra></extra>",
        )
    drawn.update_layout(
        template=TEMPLATE,
        height=_HEIGHT,
        margin={"t": 20},
        xaxis={"title": "entries, most important first (%)", "range": [0, 100]},
        yaxis={"title": "cumulative importance (%)", "range": [0, 101]},
    )
    return drawn


def _shares(profile: LayerProfile) -> Any:
    """Bars of all layers; the slider says for which budget."""
    from plotly.graph_objects import Bar, Figure

    layers = list(range(len(profile.layers)))
    kept = [
        [
            100 * share
            for share in PrefixConfig.search(budget, profile.model, CONTEXT_TOKENS, profile=profile).keep_fractions
        ]
        for budget in BUDGETS
    ]
    hover = "layer %{x} keeps %{y:.1f} %<extra></extra>"
    drawn = Figure(Bar(x=layers, y=kept[FIRST_BUDGET], hovertemplate=hover))
    steps = [
        {"label": budget, "method": "restyle", "args": [{"y": [shares]}]}
        for budget, shares in zip(BUDGETS, kept, strict=True)
    ]
    drawn.update_layout(
        template=TEMPLATE,
        height=_HEIGHT,
        margin={"t": 20},
        xaxis={"title": "layer", "dtick": 1 if len(layers) <= 16 else 4},
        yaxis={"title": "kept fraction (%)", "range": [0, 102]},
        sliders=[{"active": FIRST_BUDGET, "currentvalue": {"prefix": "budget "}, "pad": {"t": 45}, "steps": steps}],
    )
    return drawn
