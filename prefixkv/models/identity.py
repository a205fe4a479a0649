"""Which model a profile or configuration is for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from prefixkv.models.config_file import revision_here
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.names import known_name

if TYPE_CHECKING:
    from prefixkv.schemas.model import ModelSchema

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
        # Transformers noted the commit in the configuration up to 5.23.
        revision = getattr(config, "_commit_hash", None) or revision_here(model_id)
        return cls(model_id, revision, KVGeometry.of(config, dtype), digest[:16])

    @classmethod
    def of_model(cls, model: Any) -> ModelIdentity:
        """Read it off a model of transformers, which is called what it was loaded by."""
        dtype = str(model.dtype).removeprefix("torch.")
        return cls.of(known_name(model.name_or_path or "") or type(model).__name__, model.config, dtype)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, the geometry's among them."""
        return {"id": self.id, "revision": self.revision, **self.geometry.as_dict(), "fingerprint": self.fingerprint}

    @classmethod
    def read(cls, content: ModelSchema) -> ModelIdentity:
        """The identity in a file.

        Args:
            content: value of `model`.
        """
        found: dict[str, Any] = {each.name: getattr(content, each.name) for each in fields(KVGeometry)}
        found |= {name: tuple(each) for name, each in found.items() if isinstance(each, list)}
        geometry = KVGeometry(**found)
        return cls(content.id, content.revision, geometry, content.fingerprint)

    def differences(self, other: ModelIdentity) -> list[str]:
        """What makes files of this model unusable with another; the dtype does not."""
        names = ("layers", "kv_heads", "head_dim", "value_dim", "window_layers", "state_layers", "bare_layers")
        pairs = [(name, getattr(self.geometry, name), getattr(other.geometry, name)) for name in names]
        if self.fingerprint and other.fingerprint:
            pairs.append(("fingerprint", self.fingerprint, other.fingerprint))
        return [f"{name} {_short(mine)} instead of {_short(theirs)}" for name, mine, theirs in pairs if mine != theirs]


def _short(value: Any) -> str:
    """In one line: a file may have anything for a fingerprint."""
    return " ".join(str(value).split())[:80]
