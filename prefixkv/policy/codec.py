"""The codecs: in which precision entries are stored, whatever method chooses them.

Plain data: knows nothing of torch, so that the command line can list the codecs at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from prefixkv.errors import OptionError
from prefixkv.kernels.packed_row import PRECISIONS
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import BESIDE_BITS, FINE_RUN_BITS


@dataclass(frozen=True)
class Codec:
    """One precision of storage.

    Attributes:
        name: what the user types.
        summary: one line for help texts.
        bits: in which an element is stored from the first entry on; None for the model's own precision.
        is_auto: whether the method decides for every chunk, and `bits` says nothing.
        is_mixed: whether the most important entries of every layer are stored in more bits than `bits`.
    """

    name: str
    summary: str
    bits: int | None = None
    is_auto: bool = False
    is_mixed: bool = False

    def entry_size(self, geometry: KVGeometry, choosing_heads: int = 1) -> EntrySize:
        """What one token's key and value take in one layer, in few bits for `mixed`, for `auto` in the model's own."""
        return EntrySize.of(geometry, self.bits, choosing_heads)

    def largest_entry(self, geometry: KVGeometry) -> EntrySize:
        """What the largest entries take, one of which stands for all where there is one precision."""
        return EntrySize.of(geometry, FINE_RUN_BITS) if self.is_mixed else self.entry_size(geometry)

    def check(self, geometry: KVGeometry) -> None:
        """Refuse a model whose vectors do not make whole bytes.

        Raises:
            OptionError: says the codecs that are possible.
        """
        if self.is_possible(geometry):
            return
        widths = " and ".join(str(width) for width in sorted({*geometry.shape[1:]}))
        possible = [codec.name for codec in CODECS.values() if codec.is_possible(geometry)]
        raise OptionError(
            f"codec {self.name!r} needs a head size that is a multiple of {8 // (self.bits or 8)}, and the model's is "
            f"{widths}: choose one of {', '.join(possible)}"
        )

    def is_possible(self, geometry: KVGeometry) -> bool:
        """Whether the model's vectors make whole bytes."""
        return self.bits is None or all(width * self.bits % 8 == 0 for width in geometry.shape[1:])


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("auto", "guided packs to 8, 4 or 2 bits as its profile allows; other methods store plain", is_auto=True),
        Codec("plain", "the model's own precision"),
        *(Codec(f"int{bits}", f"{bits} bits an element and a step for each vector", bits) for bits in PRECISIONS),
        Codec("mixed", "4 bits for a layer's most important entries, 2 for the rest", BESIDE_BITS, is_mixed=True),
    )
}
"""All codecs by name."""

DEFAULT_CODEC = "auto"


def get_codec(name: str | Codec) -> Codec:
    """The codec of that name.

    Raises:
        OptionError: names the codecs there are, and the nearest one.
    """
    if isinstance(name, Codec):
        return name
    if name in CODECS:
        return CODECS[name]
    near = difflib.get_close_matches(name.lower(), CODECS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise OptionError(f"codec {name!r} is not known: {hint}choose one of {', '.join(CODECS)}")


def stored_name(bits: int | None, is_mixed: bool = False) -> str:
    """What entries of so many bits, or of two precisions, are stored in, by a codec's name."""
    named = (codec for codec in CODECS.values() if not codec.is_auto)
    return next(codec.name for codec in named if codec.bits == bits and codec.is_mixed == is_mixed)
