"""The shape of a model's KV cache, which is all that is needed to count its bytes. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.families import WINDOW_LAYER, layer_kinds
from prefixkv.transformers_compat import setting

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number for each dtype in which keys and values can be stored."""
COUNTED_BYTES = 2
"""Bytes of one number in the cache of which a share is: a 16-bit one."""


@dataclass(frozen=True)
class KVGeometry:
    """How many numbers a model stores for every token.

    Attributes:
        layers: decoder layers that attend to the whole text: those that are compressed.
        kv_heads: key/value heads of a layer.
        head_dim: numbers in one key (and in one value) of one head.
        dtype: name of the stored dtype, one of `DTYPE_BYTES`.
        window_layers: places, among all decoder layers, of those that attend to a sliding window. They are left alone:
            no share counts them, since what they store is bounded already.
        window_tokens: length of that window; 0 where there is none.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    window_layers: tuple[int, ...] = ()
    window_tokens: int = 0

    @classmethod
    def of(cls, config: Any, dtype: str) -> KVGeometry:
        """Read the shape off a transformers config; no weights are needed.

        Args:
            config: of a language model, or of a vision-language model with a text config inside.
            dtype: name of the dtype in which the model runs.

        Raises:
            PrefixKVError: when the model's cache is of a kind that is not supported.
        """
        kinds = layer_kinds(config)
        if dtype not in DTYPE_BYTES:
            raise PrefixKVError(f"a KV cache in {str(dtype)[:40]!r} is not supported: use {', '.join(DTYPE_BYTES)}")
        text = config.get_text_config(decoder=True)
        heads = setting(text, "num_attention_heads")
        windows = tuple(place for place, kind in enumerate(kinds) if kind == WINDOW_LAYER)
        return cls(
            layers=len(kinds) - len(windows),
            kv_heads=setting(text, "num_key_value_heads") or heads,
            head_dim=setting(text, "head_dim") or setting(text, "hidden_size") // heads,
            dtype=dtype,
            window_layers=windows,
            window_tokens=setting(text, "sliding_window") if windows else 0,
        )

    @property
    def compressed_layers(self) -> tuple[int, ...]:
        """Places of the compressed layers among all decoder layers."""
        return tuple(place for place in range(self.layers + len(self.window_layers)) if place not in self.window_layers)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: the key and the value of one token in one layer, all kv heads."""
        return 2 * self.kv_heads * self.head_dim * DTYPE_BYTES[self.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the uncompressed cache, all layers that are compressed."""
        return self.layers * self.entry_bytes

    @property
    def counted_bytes(self) -> int:
        """Bytes of one entry in a 16-bit cache, of which shares are, whatever the model runs in."""
        return 2 * self.kv_heads * self.head_dim * COUNTED_BYTES

    @property
    def counted_token_bytes(self) -> int:
        """Bytes that one token takes in a 16-bit cache, all layers that are compressed."""
        return self.layers * self.counted_bytes

    @property
    def window_bytes(self) -> int:
        """Most bytes that the window layers store for one row of a batch."""
        return len(self.window_layers) * self.window_tokens * self.entry_bytes

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON; the windows only where there are some."""
        fields = asdict(self)
        if not self.window_layers:
            del fields["window_layers"], fields["window_tokens"]
        return fields
