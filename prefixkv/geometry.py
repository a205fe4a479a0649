"""The shape of a model's KV cache, which is all that is needed to count its bytes. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefixkv.errors import PrefixKVError

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

    @classmethod
    def of(cls, config: Any, dtype: str) -> KVGeometry:
        """Read the shape off a transformers config; no weights are needed.

        Args:
            config: of a language model, or of a vision-language model with a text config inside.
            dtype: name of the dtype in which the model runs.

        Raises:
            PrefixKVError: when the model's cache is of a kind that is not supported.
        """
        text = config.get_text_config(decoder=True)
        others = set(getattr(text, "layer_types", None) or ["full_attention"]) - {"full_attention"}
        if others or (getattr(text, "use_sliding_window", True) and getattr(text, "sliding_window", None)):
            raise PrefixKVError(
                f"{config.model_type} has layers with {', '.join(sorted(others)) or 'sliding attention'}: only models "
                "whose layers all attend to the whole text can be compressed"
            )
        if dtype not in DTYPE_BYTES:
            raise PrefixKVError(f"a KV cache in {dtype} is not supported: use {', '.join(DTYPE_BYTES)}")
        heads = text.num_attention_heads
        return cls(
            layers=text.num_hidden_layers,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            dtype=dtype,
        )

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
