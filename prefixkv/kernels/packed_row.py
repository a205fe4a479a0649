"""The row of bytes in which a key or value vector is stored packed: its bits and its size. Knows nothing of torch.

`prefixkv.kernels.packing` writes and reads such rows.
"""

from __future__ import annotations

PRECISIONS = (8, 4, 2)
"""Bits in which an element can be stored packed, the most first; the one list of them."""
STEP_BYTES = 2
"""Of a packed row: its step, a float16, behind the codes."""


def packed_size(head_dim: int, bits: int) -> int:
    """Bytes of one packed vector.

    Args:
        head_dim: elements of the vector, even; for 2 bits a multiple of 4.
        bits: one of `PRECISIONS`.
    """
    return head_dim * bits // 8 + STEP_BYTES
