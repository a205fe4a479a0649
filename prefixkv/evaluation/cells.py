"""Cells: one method at one budget in one codec. Knows nothing of torch until a cache is made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prefixkv.errors import OptionError
from prefixkv.evaluation.engine import method_digests
from prefixkv.methods.table import get_method, method_names
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, get_codec

if TYPE_CHECKING:
    from prefixkv.cache.prefix_cache import PrefixKVCache
    from prefixkv.models.loading import LoadedModel, Notify


@dataclass(frozen=True)
class Cell:
    """A method at a budget in a codec.

    Attributes:
        method: its name.
        budget: canonical text: a share as `20%`, else as the user wrote it.
        codec: its name.
    """

    method: str
    budget: str
    codec: str = DEFAULT_CODEC

    @property
    def label(self) -> str:
        """The method, and the codec where that is not `auto`."""
        return labelled(self.method, self.codec)

    def recipe(self, look_ahead: str | None) -> str:
        """Digest of the method, so that results of a changed one are not taken for its own.

        Args:
            look_ahead: digest of the model's look-ahead queries, which belong to a method that uses them.
        """
        method = get_method(self.method)
        functions = {part: f"{each.__module__}.{each.__qualname__}" for part, each in method.functions.items()}
        fields = [asdict(method) | functions, look_ahead if method.is_guided else None, *method_digests(method)]
        return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def asked_fraction(self, geometry: KVGeometry, seen_tokens: float) -> float:
        """The share of the full cache that the budget means at so many tokens; at most what all entries take."""
        budget, codec = Budget.parse(self.budget), get_codec(self.codec)
        most = codec.largest_entry(geometry).counted / geometry.counted_bytes
        if budget.kind == "fraction":
            return min(most, float(budget.amount))
        token_bytes = geometry.counted_token_bytes if budget.kind == "bytes" else 1
        return min(most, float(budget.amount) / (token_bytes * seen_tokens))


REFERENCE = Cell("full", "100%")
"""The full cache, to which every cell is compared."""


def labelled(method: str, codec: str) -> str:
    """What a cell is called beside its budget, by its method's and its codec's names."""
    return method if codec == DEFAULT_CODEC else f"{method} {codec}"


def cells_of(methods: str, budgets: str, codecs: str = DEFAULT_CODEC) -> list[Cell]:
    """The cells that a user asks for.

    Args:
        methods: `all`, or names with commas between.
        budgets: budgets with commas between.
        codecs: names with commas between.

    Returns:
        Budget by budget in the order given, the methods in order within each, the codecs within these; `full` only at
        100 %.

    Raises:
        OptionError: an unknown method, budget or codec, or an empty list.
    """
    names = (
        method_names() if methods.strip() == "all" else [get_method(name).name for name in _listed(methods, "methods")]
    )
    texts = [_canonical(Budget.parse(text)) for text in _listed(budgets, "budgets")]
    stores = [get_codec(name).name for name in _listed(codecs, "codecs")]
    chosen = [
        Cell(name, REFERENCE.budget if get_method(name).keeps_all else text, store)
        for text in dict.fromkeys(texts)
        for name in dict.fromkeys(names)
        for store in dict.fromkeys(stores)
    ]
    return list(dict.fromkeys(chosen))


def is_full(cell: Cell) -> bool:
    """Whether the cell keeps everything, and so is the reference under another name."""
    is_whole = get_method(cell.method).keeps_all or cell.budget == REFERENCE.budget
    return is_whole and get_codec(cell.codec).bits is None


def measured_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are run beside the reference: those that evict or round."""
    return [cell for cell in cells if not is_full(cell)]


def new_cache(loaded: LoadedModel, cell: Cell, notify: Notify = lambda text: None) -> PrefixKVCache:
    """An empty cache for a cell: the one place where evaluation makes caches.

    Args:
        loaded: the model.
        cell: the method and the budget.
        notify: called with one line, once for each model, where the method wants a profile and there is none.

    Raises:
        BudgetTooSmallError: a hard limit cannot hold the method's protected entries.
    """
    from prefixkv.profiles.guidance import make_cache

    return make_cache(loaded.model, loaded.identity, cell.budget, cell.method, notify, cell.codec)


def _canonical(budget: Budget) -> str:
    return f"{float(budget.amount * 100):g}%" if budget.kind == "fraction" else budget.text


def _listed(text: str, what: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise OptionError(f"{what} {text!r} are none: give some, with commas between")
    return parts
