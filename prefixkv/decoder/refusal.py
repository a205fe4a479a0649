"""Why a step is not captured, in one line."""

from __future__ import annotations

from prefixkv.errors import PrefixKVError


class NotCapturableError(PrefixKVError):
    """The step of a model on a cache cannot be captured; the message says why."""

    @classmethod
    def because(cls, reason: object) -> NotCapturableError:
        """The line for a reason that lies in the model or the cache."""
        return cls(f"the step is not captured, decoding takes the plain path: {reason}")
