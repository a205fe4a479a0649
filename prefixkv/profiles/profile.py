"""A layer profile: how concentrated every layer's importance is, measured once and stored as JSON.

Plain numbers: reading one and searching from it needs no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from prefixkv.documents import VERSION, read_document, read_regular, write_json, write_whole
from prefixkv.errors import PrefixKVError
from prefixkv.html_table import html_table
from prefixkv.models.identity import ModelIdentity
from prefixkv.profiles.profile_path import find_profile

FORMAT = "prefixkv-profile"
MOST_QUERIES_BYTES = 2**30
"""Of the file of queries beside a profile; more are not read."""
POINTS = 1001
"""Points of a measured curve: the cumulative importance at 0, 0.1, ..., 100 % of the entries."""


@dataclass(frozen=True)
class LayerCurve:
    """One layer, averaged over the samples.

    Attributes:
        curve: cumulative importance of the most important 0 .. 100 % of the entries, equal steps, from 0 to 1.
        gini: Gini coefficient of the importance: 0 spread evenly, towards 1 concentrated on few entries.
        gini_spread: standard deviation of the samples' Gini coefficients.
    """

    curve: tuple[float, ...]
    gini: float
    gini_spread: float

    def at(self, entries: int) -> Sequence[float]:
        """Cumulative importance of the 1, 2, ... most important of so many entries, by linear interpolation."""
        return _Stretched(self.curve, entries)

    def entries_for(self, importance: float) -> float:
        """The share of the entries that together have so much of the importance."""
        for step, value in enumerate(self.curve):
            if value >= importance:
                before = self.curve[step - 1] if step else 0.0
                part = (importance - before) / (value - before) if value > before else 1.0
                return max(0.0, step - 1 + part) / (len(self.curve) - 1)
        return 1.0


class _Stretched(Sequence[float]):
    """A curve read at any number of entries; each value is worked out when it is asked for, so a search is fast."""

    def __init__(self, curve: Sequence[float], entries: int) -> None:
        self._curve, self._entries = curve, entries

    def __len__(self) -> int:
        return self._entries

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[rank] for rank in range(*index.indices(self._entries))]
        rank = range(self._entries)[index] + 1
        step, rest = divmod(rank * (len(self._curve) - 1), self._entries)
        value = self._curve[step]
        return value + (self._curve[step + 1] - value) * rest / self._entries if rest else value


@dataclass(frozen=True)
class LookAheadFile:
    """The look-ahead queries of a profile: safetensors, read only when a model needs them.

    Attributes:
        sha256: digest of the content.
        queries: how many there are for each layer and head.
        path: the file; None while the profile was not saved.
        content: of a profile that was measured just now.
    """

    sha256: str
    queries: int
    path: Path | None = None
    content: bytes | None = None

    @classmethod
    def of(cls, content: bytes, queries: int) -> LookAheadFile:
        """Of queries that were recorded just now."""
        return cls(hashlib.sha256(content).hexdigest(), queries, content=content)

    def read(self) -> bytes:
        """The content.

        Raises:
            PrefixKVError: the file is missing or not the one that was saved with the profile.
        """
        content = self.content
        if content is None:
            assert self.path is not None
            try:
                content = read_regular(self.path, "the file that was saved with the profile", MOST_QUERIES_BYTES)
            except PrefixKVError as error:
                raise PrefixKVError(f"{error}; it belongs to the profile beside it: measure again") from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise PrefixKVError(f"{self.path} is not the file that was saved with the profile beside it: measure again")
        return content


@dataclass(frozen=True)
class LayerProfile:
    """What a calibration run has found.

    Attributes:
        model: which model was measured.
        scorer: name of the scorer of importance.
        source: what the samples were, in words.
        samples: for each its `image_sha256`, `prompt_tokens` and `answer_tokens`.
        layers: a curve for each layer.
        created_by: program and version.
        look_ahead: queries that the model asked while it answered; None where they were not recorded.
        rounding_losses: divergence of the model's predictions, in nats a token, where prompt and answer are stored
            as `k8v4`, in 4 bits, as `k4v2` and in 2 bits, as far as it was measured; by the bits, 84 for `k8v4`.
        eviction_losses: the same where `guided` keeps a share of the entries as they are, by that share.
        mixed_losses: the same where it stores what a share of a 16-bit cache's bytes holds in two precisions, by that.
    """

    model: ModelIdentity
    scorer: str
    source: str
    samples: tuple[dict[str, Any], ...]
    layers: tuple[LayerCurve, ...]
    created_by: str
    look_ahead: LookAheadFile | None = None
    rounding_losses: dict[int, float] = field(default_factory=dict)
    eviction_losses: dict[float, float] = field(default_factory=dict)
    mixed_losses: dict[float, float] = field(default_factory=dict)

    @classmethod
    def load(cls, name_or_path: str | Path) -> LayerProfile:
        """Read a profile.

        Args:
            name_or_path: a file, or the name under which a profile was saved; `demo` is there from the beginning.

        Raises:
            PrefixKVError: the file is missing, broken or no profile.
        """
        from prefixkv.schemas.field import parse
        from prefixkv.schemas.profile import ProfileSchema

        path = find_profile(name_or_path) if isinstance(name_or_path, str) else name_or_path
        content = parse(ProfileSchema, read_document(path, FORMAT), str(path))
        curves = tuple(LayerCurve(tuple(layer.curve), layer.gini, layer.gini_spread) for layer in content.layers)
        beside = content.look_ahead
        return cls(
            ModelIdentity.read(content.model),
            content.scorer,
            content.source,
            tuple(sample.model_dump(exclude_unset=True) for sample in content.samples),
            curves,
            content.created_by,
            None if beside is None else LookAheadFile(beside.sha256, beside.queries, path.with_name(beside.file)),
            {int(bits): loss for bits, loss in content.rounding_losses.items()},
            {float(share): loss for share, loss in content.eviction_losses.items()},
            {float(share): loss for share, loss in content.mixed_losses.items()},
        )

    @classmethod
    def measure(cls, loaded: Any, samples: Any, source: str, **options: Any) -> LayerProfile:
        """Run calibration samples; see `prefixkv.profiles.profiling.measure`, which this loads with torch."""
        from prefixkv.profiles.profiling import measure

        return measure(loaded, samples, source, **options)

    def _repr_html_(self) -> str:
        """A notebook's table: how concentrated each layer's importance is."""
        rows = [
            [
                str(index),
                f"{layer.gini:.3f} ± {layer.gini_spread:.3f}",
                *(f"{layer.entries_for(part):.1%}" for part in (0.5, 0.9, 0.99)),
            ]
            for index, layer in enumerate(self.layers)
        ]
        parts = ("entries with 50 % of the importance", "90 %", "99 %")
        samples = f"{len(self.samples)} sample{'' if len(self.samples) == 1 else 's'}"
        caption = f"{self.model.id}: {samples} ({self.source}), scored by {self.scorer}"
        return html_table(caption, ("layer", "Gini coefficient", *parts), rows)

    def save(self, path: Path) -> None:
        """Write the profile, whole or not at all, and its look-ahead queries beside it.

        Raises:
            PrefixKVError: the place cannot be written.
        """
        content = self.as_dict()
        if self.look_ahead is not None:
            # Named by content, so that an old profile beside a new file, or the other way round, cannot be mixed up.
            queries = path.with_name(f"{path.stem}-{self.look_ahead.sha256[:12]}.safetensors")
            # Also where it is there: it may be damaged, and measuring again is what mends it.
            if queries != self.look_ahead.path:
                write_whole(queries, self.look_ahead.read())
            content["look_ahead"]["file"] = queries.name
        write_json(path, content)

    def as_dict(self) -> dict[str, Any]:
        """The file's content."""
        layers = [
            {"layer": index, "gini": layer.gini, "gini_spread": layer.gini_spread, "curve": list(layer.curve)}
            for index, layer in enumerate(self.layers)
        ]
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model.as_dict(),
            "scorer": self.scorer,
            "source": self.source,
            "samples": list(self.samples),
            "layers": layers,
            "look_ahead": None
            if self.look_ahead is None
            else {
                "sha256": self.look_ahead.sha256,
                "queries": self.look_ahead.queries,
                **({"file": self.look_ahead.path.name} if self.look_ahead.path is not None else {}),
            },
            "rounding_losses": {str(bits): loss for bits, loss in self.rounding_losses.items()},
            "eviction_losses": {str(share): loss for share, loss in self.eviction_losses.items()},
            "mixed_losses": {str(share): loss for share, loss in self.mixed_losses.items()},
            "created_by": self.created_by,
        }


def average_curve(cumulative: Sequence[Sequence[float]]) -> LayerCurve:
    """One layer's curve from its samples.

    Args:
        cumulative: for each sample the cumulative importance of its 1, 2, ... most important entries.

    Raises:
        PrefixKVError: an importance is not a number.
    """
    resampled = [_resample(sample) for sample in cumulative]
    ginis = [_gini(curve) for curve in resampled]
    if any(math.isnan(gini) for gini in ginis):
        raise PrefixKVError("the model's attention is not a number (NaN): try --dtype float32")
    # Rounding may turn equal numbers into falling ones, and a search relies on curves that never fall.
    mean = [*accumulate((round(fmean(values), 6) for values in zip(*resampled, strict=True)), max)]
    return LayerCurve((*mean[:-1], 1.0), round(fmean(ginis), 6), round(pstdev(ginis), 6))


def _resample(cumulative: Sequence[float]) -> list[float]:
    """The curve at `POINTS` equal steps from 0 to 100 % of the entries, by linear interpolation."""
    values, entries = [0.0, *cumulative], len(cumulative)
    points = []
    for point in range(POINTS):
        step, rest = divmod(point * entries, POINTS - 1)
        value = values[step]
        points.append(value + (values[step + 1] - value) * rest / (POINTS - 1) if rest else value)
    return points


def _gini(curve: Sequence[float]) -> float:
    """Twice the area between the curve of the largest-first sums and the diagonal, by the trapezoid rule."""
    area = (sum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)
    return 2 * area - 1
