"""Tables of profiles: one, or the difference of two."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from prefixkv.errors import PrefixKVError
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile

BAR_CELLS = 20
COMPARED_BUDGET, COMPARED_CONTEXT = "20%", 1000


def profile_table(profile: LayerProfile) -> Group:
    """A row for each layer: Gini, and the share of entries that holds 50, 90 and 99 % of the importance."""
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "gini", "±", "50%", "90%", "99%"):
        table.add_column(heading, justify="right")
    table.add_column("entries for 90%")
    for index, layer in enumerate(profile.layers):
        shares = [layer.entries_for(part) for part in (0.5, 0.9, 0.99)]
        bar = "█" * max(1, round(shares[1] * BAR_CELLS))
        figures = (f"{share:.1%}" for share in shares)
        table.add_row(str(index), f"{layer.gini:.3f}", f"{layer.gini_spread:.3f}", *figures, bar)
    title = f"{profile.model.id}: {len(profile.samples)} samples ({profile.source}), scored by {profile.scorer}"
    return Group(title, table)


def difference_table(first: LayerProfile, second: LayerProfile) -> tuple[dict[str, Any], Group]:
    """How far two profiles are apart, as a record and as a table.

    Raises:
        PrefixKVError: they are of different models.
    """
    differences = first.model.differences(second.model)
    if differences:
        raise PrefixKVError(f"the profiles are of different models: {'; '.join(differences)}")
    kept = [
        PrefixConfig.search(COMPARED_BUDGET, profile.model, COMPARED_CONTEXT, profile=profile).keep_fractions
        for profile in (first, second)
    ]
    rows: list[dict[str, Any]] = [
        {
            "layer": index,
            "gini": [one.gini, other.gini],
            "largest_curve_distance": max(
                abs(a - b) for a, b in zip(one.at(COMPARED_CONTEXT), other.at(COMPARED_CONTEXT), strict=True)
            ),
            "keep_fractions": [kept[0][index], kept[1][index]],
        }
        for index, (one, other) in enumerate(zip(first.layers, second.layers, strict=True))
    ]
    moved = [abs(a - b) for a, b in zip(*kept, strict=True)]
    record = {"budget": COMPARED_BUDGET, "layers": rows, "largest_keep_difference": max(moved)}
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "gini A", "gini B", "curves apart", "keep A", "keep B"):
        table.add_column(heading, justify="right")
    for index, row in enumerate(rows):
        ginis, distance = row["gini"], row["largest_curve_distance"]
        figures = (
            f"{ginis[0]:.3f}",
            f"{ginis[1]:.3f}",
            f"{distance:.4f}",
            f"{kept[0][index]:.3f}",
            f"{kept[1][index]:.3f}",
        )
        table.add_row(str(index), *figures)
    total = sum(moved) / 2
    meaning = (
        f"at {COMPARED_BUDGET} no layer's keep fraction differs by more than {max(moved):.3f}; "
        f"{total / sum(kept[0]):.1%} of the kept entries would lie in another layer"
    )
    return record, Group(table, meaning)
