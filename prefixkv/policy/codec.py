"""The codecs: in which precision entries are stored, whatever method chooses them.

Plain data: knows nothing of torch, so that the command line can list the codecs at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from prefixkv.errors import OptionError
from prefixkv.kernels.packed_row import PAIRS, PRECISIONS, UNEVEN, key_bits, makes_bytes, value_bits
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.entry_size import EntrySize
from prefixkv.policy.precision import FEWEST_BITS, FINE_OF


@dataclass(frozen=True)
class Codec:
    """One precision of storage.

    Attributes:
        name: what the user types.
        summary: one line for help texts.
        bits: in which an entry is stored from the first one on, one of `PAIRS`; None for the model's own precision.
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
        # `PAIRS` begins with the largest.
        largest = min(FINE_OF.values(), key=PAIRS.index) if self.is_mixed else self.bits
        return EntrySize.of(geometry, largest)

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
            f"codec {self.name!r} needs a head size that is a multiple of {8 // value_bits(self.bits or 8)}, and the "
            f"model's is {widths}: choose one of {', '.join(possible)}"
        )

    def is_possible(self, geometry: KVGeometry) -> bool:
        """Whether the model's vectors make whole bytes."""
        return self.bits is None or makes_bytes(self.bits, *geometry.shape[1:])


def _name(bits: int) -> str:
    key, value = key_bits(bits), value_bits(bits)
    return f"int{key}" if key == value else f"k{key}v{value}"


def _summary(bits: int) -> str:
    key, value = key_bits(bits), value_bits(bits)
    elements = f"{key} bits an element" if key == value else f"{key} bits an element of a key, {value} of a value,"
    return f"{elements} and a step for each vector"


CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("auto", "guided packs to 8, 4 or 2 bits as its profile allows; other methods store plain", is_auto=True),
        Codec("plain", "the model's own precision"),
        *(Codec(_name(bits), _summary(bits), bits) for bits in (*PRECISIONS, *UNEVEN)),
        Codec("mixed", "more bits for a layer's most important entries than for the rest", FEWEST_BITS, is_mixed=True),
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
    named = (codec for codec in CODECS.values() if not codec.is_auto and codec.is_mixed == is_mixed)
    return next(codec.name for codec in named if is_mixed or codec.bits == bits)
