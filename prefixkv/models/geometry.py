"""The shape of a model's KV cache, which is all that is needed to count its bytes. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.layer_kinds import CHUNK, NOTHING, WITH_ENTRIES, WITH_STATE, WITH_WINDOW, layer_kinds
from prefixkv.models.layer_sizes import EntryShape, entry_shape
from prefixkv.models.state_sizes import state_bytes
from prefixkv.transformers_compat import layer_config, setting

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one number for each dtype in which keys and values can be stored."""
COUNTED_BYTES = 2
"""Bytes of one number in the cache of which a share is: a 16-bit one."""


@dataclass(frozen=True)
class KVGeometry:
    """How many numbers a model stores for every token, and what it keeps beside that.

    Places are those among all decoder layers. Layers that are not compressed are left alone: no share counts them,
    since what they store is bounded already.

    Attributes:
        layers: decoder layers that keep a key and a value for every token: those that are compressed.
        kv_heads: key/value heads of such a layer.
        head_dim: numbers in one key of one head, and in one value where `value_dim` says nothing else.
        dtype: name of the stored dtype, one of `DTYPE_BYTES`.
        window_layers: places of layers that attend to a sliding window, or within chunks.
        window_tokens: length of that window or chunk; 0 where there is none.
        value_dim: numbers in one value of one head, where values are not as wide as keys; else None.
        window_shape: kv heads, numbers of a key and of a value in the window layers, where these differ from those of
            the compressed layers; else None.
        is_latent: whether what is stored are latents, which the model expands to keys and values for each pass.
        has_chunks: whether the windows are chunks, in which a token sees those of its own chunk only.
        state_layers: places of layers that keep a state of fixed size, and those that have one beside entries.
        state_bytes: what the states take for one row of a batch; None where that is not known before the model runs.
        states_each: states of one such layer.
        hybrid_layers: places of layers that keep a state and, beside it, entries or a window of them.
        bare_layers: places of layers that keep nothing: they read another layer's keys and values, or attend to none.
    """

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    window_layers: tuple[int, ...] = ()
    window_tokens: int = 0
    value_dim: int | None = None
    window_shape: tuple[int, int, int] | None = None
    is_latent: bool = False
    has_chunks: bool = False
    state_layers: tuple[int, ...] = ()
    state_bytes: int | None = 0
    states_each: int = 1
    hybrid_layers: tuple[int, ...] = ()
    bare_layers: tuple[int, ...] = ()

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
        full, windows, states, bare = (
            tuple(place for place, kind in enumerate(kinds) if kind in wanted)
            for wanted in (WITH_ENTRIES, WITH_WINDOW, WITH_STATE, {NOTHING})
        )
        shape = entry_shape(config, text, full)
        window = entry_shape(config, text, windows, is_window=True) if windows else shape
        has_chunks = CHUNK in kinds
        each = state_bytes(text, DTYPE_BYTES[dtype]) if states else 0
        return cls(
            layers=len(full),
            kv_heads=shape.kv_heads,
            head_dim=shape.key_dim,
            dtype=dtype,
            window_layers=windows,
            window_tokens=_window_tokens(text, windows[0], has_chunks) if windows else 0,
            value_dim=None if shape.value_dim == shape.key_dim else shape.value_dim,
            window_shape=None if window == shape else (window.kv_heads, window.key_dim, window.value_dim),
            is_latent=bool(setting(layer_config(text, full[0]), "kv_lora_rank")),
            has_chunks=has_chunks,
            state_layers=states,
            state_bytes=None if each is None else each * len(states),
            states_each=(setting(text, "number_of_conv_states") or 1) if states else 1,
            hybrid_layers=tuple(place for place in states if place in {*full, *windows}),
            bare_layers=bare,
        )

    @property
    def decoder_layers(self) -> int:
        """All decoder layers, whatever they keep."""
        places = {*self.window_layers, *self.bare_layers, *(set(self.state_layers) - set(self.hybrid_layers))}
        return self.layers + len(places)

    @property
    def compressed_layers(self) -> tuple[int, ...]:
        """Places of the compressed layers among all decoder layers."""
        others = {*self.window_layers, *self.bare_layers, *(set(self.state_layers) - set(self.hybrid_layers))}
        return tuple(place for place in range(self.layers + len(others)) if place not in others)

    @property
    def left_layers(self) -> int:
        """Layers that keep something and are left alone."""
        return self.decoder_layers - self.layers - len(self.bare_layers)

    @property
    def shape(self) -> EntryShape:
        """One entry of a compressed layer."""
        return EntryShape(self.kv_heads, self.head_dim, self.value_dim or self.head_dim)

    @property
    def window_entry(self) -> EntryShape:
        """One entry of a window layer."""
        return self.shape if self.window_shape is None else EntryShape(*self.window_shape)

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry: the key and the value of one token in one layer, all kv heads."""
        return self.shape.numbers * DTYPE_BYTES[self.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the uncompressed cache, all layers that are compressed."""
        return self.layers * self.entry_bytes

    @property
    def counted_bytes(self) -> int:
        """Bytes of one entry in a 16-bit cache, of which shares are, whatever the model runs in."""
        return self.shape.numbers * COUNTED_BYTES

    @property
    def counted_token_bytes(self) -> int:
        """Bytes that one token takes in a 16-bit cache, all layers that are compressed."""
        return self.layers * self.counted_bytes

    @property
    def window_bytes(self) -> int:
        """Most bytes that the window layers store for one row of a batch."""
        return len(self.window_layers) * self.window_tokens * self.window_entry.numbers * DTYPE_BYTES[self.dtype]

    @property
    def left_bytes(self) -> int:
        """Most bytes that the layers which are left alone store for one row, as far as they are known."""
        return self.window_bytes + (self.state_bytes or 0)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON; what only some models have only where they have it."""
        fields = asdict(self)
        if not self.window_layers:
            del fields["window_layers"], fields["window_tokens"]
        if not self.state_layers:
            del fields["state_layers"], fields["state_bytes"]
        if self.states_each == 1:
            del fields["states_each"]
        rare = ("value_dim", "window_shape", "is_latent", "has_chunks", "hybrid_layers", "bare_layers")
        return {name: value for name, value in fields.items() if value or name not in rare}


def _window_tokens(text: Any, place: int, has_chunks: bool) -> int:
    found: int = setting(layer_config(text, place), "attention_chunk_size" if has_chunks else "sliding_window")
    return found
