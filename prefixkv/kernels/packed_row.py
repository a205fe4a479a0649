"""The row of bytes in which a key or value vector is stored packed: its bits and its size. Knows nothing of torch.

`prefixkv.kernels.packing` writes and reads such rows.
"""

from __future__ import annotations

PRECISIONS = (8, 4, 2)
"""Bits in which an element can be stored packed, the most first; the one list of them."""
KEY_FIRST = 10
PAIRS = (8, 84, 4, 42, 2)
"""Bits in which an entry, its key and its value, can be stored, the most first: a digit for both, or one for the key
and one for the value. Keys come first, since their rounding moves attention itself, and that of values only what it
mixes."""
UNEVEN = (84, 42)
"""Those with more bits for keys."""
STEP_BYTES = 2
"""Of a packed row: its step, a float16, behind the codes."""


def packed_size(head_dim: int, bits: int) -> int:
    """Bytes of one packed vector.

    Args:
        head_dim: elements of the vector, even; for 2 bits a multiple of 4.
        bits: of an element, one of `PRECISIONS`.
    """
    return head_dim * bits // 8 + STEP_BYTES


def key_bits(pair: int) -> int:
    """Bits of a key's element, of one of `PAIRS`."""
    return pair // KEY_FIRST or pair


def value_bits(pair: int) -> int:
    """Bits of a value's element, of one of `PAIRS`."""
    return pair % KEY_FIRST


def pair_of(key: int, value: int) -> int:
    """Which of `PAIRS` has so many bits of a key's and of a value's element."""
    return key if key == value else KEY_FIRST * key + value


def mean_bits(pair: int) -> float:
    """Bits of an element, keys and values together."""
    return (key_bits(pair) + value_bits(pair)) / 2


def makes_bytes(pair: int, key_dim: int, value_dim: int) -> bool:
    """Whether vectors of such sizes are whole bytes."""
    return key_dim * key_bits(pair) % 8 == 0 and value_dim * value_bits(pair) % 8 == 0
