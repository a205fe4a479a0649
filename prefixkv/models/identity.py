"""Which model a profile or configuration is for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import DTYPE_BYTES, KVGeometry
from prefixkv.models.names import known_name

_VOLATILE = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "attn_implementation")


@dataclass(frozen=True)
class ModelIdentity:
    """A model as files name it.

    Attributes:
        id: `demo`, a hub id or a folder.
        revision: commit of the hub, where known.
        geometry: shape of the KV cache.
        fingerprint: digest of the language model's settings; None where only the shape was known.
    """

    id: str
    revision: str | None
    geometry: KVGeometry
    fingerprint: str | None

    @classmethod
    def of(cls, model_id: str, config: Any, dtype: str) -> ModelIdentity:
        """Read it off a transformers config.

        Args:
            model_id: what the user calls the model.
            config: of the model.
            dtype: name of the dtype in which the cache is stored.
        """
        text = config.get_text_config(decoder=True).to_dict()
        settings = {key: value for key, value in text.items() if key not in _VOLATILE and not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        return cls(model_id, getattr(config, "_commit_hash", None), KVGeometry.of(config, dtype), digest[:16])

    @classmethod
    def of_model(cls, model: Any) -> ModelIdentity:
        """Read it off a model of transformers, which is called what it was loaded by."""
        dtype = str(model.dtype).removeprefix("torch.")
        return cls.of(known_name(model.name_or_path or "") or type(model).__name__, model.config, dtype)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, the geometry's among them."""
        return {"id": self.id, "revision": self.revision, **self.geometry.as_dict(), "fingerprint": self.fingerprint}

    @classmethod
    def read(cls, content: Any, where: str) -> ModelIdentity:
        """The identity in a file.

        Args:
            content: value of `model`.
            where: the file, for messages.

        Raises:
            PrefixKVError: a field is missing or of the wrong kind.
        """
        counts = ("layers", "kv_heads", "head_dim")
        if not isinstance(content, dict) or not isinstance(content.get("id"), str):
            raise PrefixKVError(f"{where}: model has no id")
        for name in counts:
            if type(content.get(name)) is not int or not 0 < content[name] <= 100_000:
                raise PrefixKVError(f"{where}: model has {name} {content.get(name)!r}, which is no count")
        if content.get("dtype") not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise PrefixKVError(f"{where}: model has dtype {content.get('dtype')!r}, not one of {known}")
        for name in ("revision", "fingerprint"):
            if not isinstance(content.get(name), (str, type(None))):
                raise PrefixKVError(f"{where}: model has {name} {content[name]!r}, which is no text")
        windows, window = content.get("window_layers", []), content.get("window_tokens", 0)
        if not isinstance(windows, list) or any(type(count) is not int or count < 0 for count in (*windows, window)):
            raise PrefixKVError(
                f"{where}: model has window_layers {windows!r} of {window!r} tokens: give whole numbers"
            )
        sizes = content["layers"], content["kv_heads"], content["head_dim"]
        geometry = KVGeometry(*sizes, content["dtype"], tuple(windows), window)
        return cls(content["id"], content.get("revision"), geometry, content.get("fingerprint"))

    def differences(self, other: ModelIdentity) -> list[str]:
        """What makes files of this model unusable with another; the dtype does not."""
        names = ("layers", "kv_heads", "head_dim", "window_layers")
        pairs = [(name, getattr(self.geometry, name), getattr(other.geometry, name)) for name in names]
        if self.fingerprint and other.fingerprint:
            pairs.append(("fingerprint", self.fingerprint, other.fingerprint))
        return [f"{name} {mine} instead of {theirs}" for name, mine, theirs in pairs if mine != theirs]
