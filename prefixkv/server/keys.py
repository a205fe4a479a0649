"""Who may ask: keys of a file, each of which has its own conversations. Knows nothing of torch."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from prefixkv.documents import read_text
from prefixkv.errors import PrefixKVError

NOBODY = ""
"""Whose requests are where no key is asked for."""


class Keys:
    """The keys that are known, as digests."""

    def __init__(self, keys: Sequence[str], token: str | None = None) -> None:
        """Take the keys.

        Args:
            keys: none where everybody may ask.
            token: one more, of the user whose server it is.
        """
        self.are_needed = bool(keys)
        self._digests = [_digest(key) for key in (*keys, *([token] if token else []))]

    @classmethod
    def read(cls, path: Path | None, token: str | None = None) -> Keys:
        """Read a file: a key a line; empty lines and those that begin with # are none.

        Raises:
            PrefixKVError: it cannot be read, or holds no key.
        """
        if path is None:
            return cls((), token)
        lines = [line.strip() for line in read_text(path).splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise PrefixKVError(f"{path} holds no API key: write one a line")
        if bad := next((number for number, key in enumerate(keys, start=1) if not key.isascii() or " " in key), None):
            raise PrefixKVError(f"{path}: key {bad} has white space or letters that no header may hold")
        return cls(keys, token)

    def owner(self, authorization: str | None) -> str | None:
        """Whose request it is.

        Args:
            authorization: the header, `Bearer KEY`; None where there is none.

        Returns:
            A digest of the key, `NOBODY` where no key is needed; None for a request that may not be answered.
        """
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip()) if scheme.lower() == "bearer" else ""
        # All are compared, so that the time says nothing of which one was near.
        found = [digest for digest in self._digests if hmac.compare_digest(digest, given)]
        return found[0] if found else None if self.are_needed else NOBODY


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
