"""The shape of a model's KV cache, which is all that is needed to count its bytes. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number for each dtype in which keys and values can be stored."""


@dataclass(frozen=True)
class KVGeometry:
    """How many numbers a model stores for every token.

    Attributes:
        layers: decoder layers that own a cache.
        kv_heads: key/value heads of a layer.
        head_dim: numbers in one key (and in one value) of one head.
        dtype: name of the stored dtype, one of `DTYPE_BYTES`.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: the key and the value of one token in one layer, all kv heads."""
        return 2 * self.kv_heads * self.head_dim * DTYPE_BYTES[self.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the uncompressed cache, all layers."""
        return self.layers * self.entry_bytes

    def as_dict(self) -> dict[str, int | str]:
        """The fields as plain values, for JSON."""
        return asdict(self)
