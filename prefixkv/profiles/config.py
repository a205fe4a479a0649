"""A configuration: every layer's keep fraction for one budget, searched once and reused by name.

Plain numbers: searching, reading and writing one needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from prefixkv import __version__
from prefixkv.documents import MOST_DOCUMENT_BYTES, read_document, read_json, write_json
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.home import find_file
from prefixkv.methods import allocation
from prefixkv.methods.table import DEFAULT_METHOD, get_method
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import Budget
from prefixkv.policy.codec import DEFAULT_CODEC, Codec, get_codec
from prefixkv.profiles.profile import LayerProfile

FORMAT, VERSION = "prefixkv-config", 3
CREATED_BY = f"prefixkv {__version__}"
ALLOCATIONS = ("prefix", "mixed", "uniform")


@dataclass(frozen=True)
class PrefixConfig:
    """Keep fractions of one model for one budget.

    Attributes:
        name: what the user calls it.
        model: which model it is for.
        method: name of the method that chooses the entries.
        allocation: how the layers' shares were found: `prefix`, `uniform` or `release` (imported).
        budget: what was asked for, `requested`, for `batch` rows of `context_tokens`; and what it came to:
            `kept_tokens_fraction`, and in `bytes` of a 16-bit cache what the entries take, of which a share counts.
        keep_fractions: for each layer the share of its tokens that is kept, in (0, 1].
        profile: `sha256`, `samples` and `source` of the profile; None where there was none.
        created_by: program and version.
        release_forgotten: the list of the paper's release that this was imported from, number by number.
        codec: name of the codec in which the entries are stored.
    """

    name: str
    model: ModelIdentity
    method: str
    allocation: str
    budget: dict[str, Any]
    keep_fractions: tuple[float, ...]
    profile: dict[str, Any] | None = None
    created_by: str = CREATED_BY
    release_forgotten: tuple[float, ...] | None = None
    codec: str = DEFAULT_CODEC

    @classmethod
    def search(
        cls,
        budget: str | Budget,
        model: ModelIdentity,
        context_tokens: int,
        batch: int = 1,
        allocation_name: str = "prefix",
        method: str = DEFAULT_METHOD,
        name: str = "unnamed",
        profile: LayerProfile | None = None,
        profile_sha256: str | None = None,
        codec: str | Codec = DEFAULT_CODEC,
    ) -> PrefixConfig:
        """Find every layer's share of a budget.

        Args:
            budget: a share, bytes for all rows together, or tokens.
            model: what the shares are for.
            context_tokens: tokens of one row, prompt and answer, that the budget is to hold.
            batch: rows.
            allocation_name: `prefix` searches one threshold over the profile's curves; `uniform` needs no
                profile; `mixed` is the mean of both.
            method: name of the method that will choose the entries.
            name: of the result.
            profile: measured curves; not needed for `uniform`.
            profile_sha256: digest of the profile's file.
            codec: name of a codec: fewer bits hold more entries in the same bytes.

        Raises:
            OptionError: a number or name that is not allowed, or no profile where one is needed.
            BudgetTooSmallError: the budget cannot hold the method's protected entries.
        """
        parsed, geometry, recipe = Budget.parse(budget), model.geometry, get_method(method)
        if allocation_name not in ALLOCATIONS:
            raise OptionError(f"allocation {allocation_name!r} is not known: choose one of {', '.join(ALLOCATIONS)}")
        if context_tokens < 1 or batch < 1:
            raise OptionError(f"context {context_tokens} and batch {batch} must both be 1 or more")
        floor = min(recipe.floor_tokens, context_tokens)
        chosen = get_codec(codec)
        chosen.check(geometry)
        if chosen.is_mixed:
            raise OptionError(
                f"codec {chosen.name!r} finds for every prompt which entries have more bits, and a configuration says "
                "how many entries there are: choose another codec, or give the budget itself where the model is used"
            )
        size = chosen.entry_size(geometry, recipe.choosing_heads(geometry.kv_heads))
        parsed.check_floor(geometry, floor, batch, size)
        total = min(parsed.entries(geometry, context_tokens, batch, size), geometry.layers * context_tokens)
        total = max(total, floor * geometry.layers)
        if allocation_name == "uniform":
            kept = allocation.uniform(total, geometry.layers)
        elif profile is None:
            raise OptionError(
                f"allocation {allocation_name!r} needs a profile of the model: make one with `prefixkv profile`"
            )
        else:
            kept = allocation.prefix([layer.at(context_tokens) for layer in profile.layers], total, floor)
            if allocation_name == "mixed":
                kept = allocation.mixed(allocation.uniform(total, geometry.layers), kept)
        facts = {
            "requested": parsed.text,
            "kept_tokens_fraction": total / (geometry.layers * context_tokens),
            "context_tokens": context_tokens,
            "batch": batch,
            "bytes": total * size.counted * batch,
        }
        source = None
        if profile is not None and allocation_name != "uniform":
            source = {"sha256": profile_sha256, "samples": len(profile.samples), "source": profile.source}
        fractions = tuple(count / context_tokens for count in kept)
        return cls(name, model, recipe.name, allocation_name, facts, fractions, source, codec=chosen.name)

    def as_budget(self) -> Budget:
        """The share of the bytes that all layers together keep, exact at the context that was searched for."""
        geometry, entries = self.model.geometry, len(self.keep_fractions) * self.budget["context_tokens"]
        if self.release_forgotten is not None:
            return Budget.parse(self.budget["requested"])
        share = Fraction(sum(self.kept_tokens()), entries)
        if share < 1:
            share *= Fraction(get_codec(self.codec).entry_size(geometry).counted, geometry.counted_bytes)
        return Budget(f"config {self.name}", "fraction", share)

    def kept_tokens(self) -> list[int]:
        """Entries of each layer at the context that the configuration was searched for."""
        return [round(fraction * self.budget["context_tokens"]) for fraction in self.keep_fractions]

    def require_model(self, model: ModelIdentity) -> None:
        """Refuse another model than the one that the configuration is for.

        Raises:
            PrefixKVError: says what differs.
        """
        differences = self.model.differences(model)
        if differences:
            raise PrefixKVError(
                f"configuration {self.name[:200]!r} is for {' '.join(self.model.id.split())[:200]}, not for "
                f"{model.id}: it has {'; '.join(differences)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "model": self.model.as_dict(),
            "method": {"name": self.method, "allocation": self.allocation},
            "codec": self.codec,
            "budget": self.budget,
            "keep_fractions": list(self.keep_fractions),
            "profile": self.profile,
            "created_by": self.created_by,
        }
        if self.release_forgotten is not None:
            content["release_forgotten"] = list(self.release_forgotten)
        return content

    def save(self, path: Path) -> None:
        """Write the configuration, whole or not at all.

        Raises:
            PrefixKVError: the place cannot be written.
        """
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, name_or_path: str | Path) -> PrefixConfig:
        """Read a configuration.

        Args:
            name_or_path: a file, or the name under which a configuration was saved.

        Raises:
            PrefixKVError: the file is missing, broken or no configuration.
        """
        from prefixkv.schemas.config import ConfigSchema
        from prefixkv.schemas.field import parse

        path = find_file("configs", name_or_path) if isinstance(name_or_path, str) else name_or_path
        content = parse(ConfigSchema, read_document(path, FORMAT, VERSION), str(path))
        try:
            get_method(content.method.name)
            get_codec(content.codec)
            Budget.parse(content.budget.requested)
        except OptionError as error:
            raise PrefixKVError(f"{path}: {error}") from None
        forgotten, model, facts = (
            content.release_forgotten,
            ModelIdentity.read(content.model),
            content.budget.model_dump(),
        )
        if content.version < VERSION:
            # Older formats counted the bytes of the model's own dtype.
            entries = facts["kept_tokens_fraction"] * model.geometry.layers * facts["context_tokens"] * facts["batch"]
            facts["bytes"] = max(1, round(entries) * get_codec(content.codec).entry_size(model.geometry).counted)
        return cls(
            content.name,
            model,
            content.method.name,
            content.method.allocation,
            facts,
            tuple(content.keep_fractions),
            None if content.profile is None else content.profile.model_dump(exclude_unset=True),
            content.created_by,
            None if forgotten is None else tuple(forgotten),
            content.codec,
        )

    @classmethod
    def from_release(cls, path: Path, model: ModelIdentity, name: str, context_tokens: int) -> PrefixConfig:
        """Import a file of the paper's release: a bare list of FORGOTTEN fractions, one a layer.

        Args:
            path: the release's `confs/prefixkv_*.json`.
            model: what it is for.
            name: of the result.
            context_tokens: for the tokens and bytes that tables show.

        Raises:
            PrefixKVError: the file is no such list, or one for another number of layers.
        """
        from prefixkv.schemas.release import read_forgotten

        forgotten = read_forgotten(read_json(path, MOST_DOCUMENT_BYTES), model.geometry.layers, str(path))
        fractions = tuple(1 - value for value in forgotten)
        keep = sum(fractions) / len(fractions)
        facts = {
            "requested": f"{100 * keep:.6g}%",
            "kept_tokens_fraction": keep,
            "context_tokens": context_tokens,
            "batch": 1,
            "bytes": max(1, round(keep * context_tokens * model.geometry.counted_token_bytes)),
        }
        return cls(name, model, "prefixkv", "release", facts, fractions, release_forgotten=forgotten)

    def to_release(self) -> list[float]:
        """The list in the release's form; one that was imported comes back number by number."""
        if self.release_forgotten is not None:
            return list(self.release_forgotten)
        return [1 - fraction for fraction in self.keep_fractions]
