"""Errors in the shape of OpenAI's API: a status and an object that says what was wrong. Knows nothing of torch."""

from __future__ import annotations

from typing import Any

from prefixkv.errors import BudgetTooSmallError, DeviceMemoryError, EngineLostError, PictureTooLargeError, PrefixKVError


class RefusedError(Exception):
    """Why a request is not answered."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        """Say it.

        Args:
            status: of HTTP.
            message: one line.
            code: a word that a program may look at; None for none.
        """
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    @classmethod
    def of(cls, error: Exception) -> RefusedError:
        """What an error of the engine or of what a request holds is to a client."""
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, (BudgetTooSmallError, PictureTooLargeError)):
            return cls(413, str(error), "too_large")
        if isinstance(error, DeviceMemoryError):
            return cls(503, str(error), "out_of_memory")
        if isinstance(error, EngineLostError):
            return cls(503, str(error), "engine_lost")
        if isinstance(error, PrefixKVError):
            return cls(400, str(error))
        return cls(500, f"internal error: {type(error).__name__}")

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI has it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}


def wrong_key() -> RefusedError:
    """The request has no key, or one that is none of the server's."""
    return RefusedError(
        401, "the API key is missing or wrong: send one as `Authorization: Bearer KEY`", "invalid_api_key"
    )


def too_busy(most: int) -> RefusedError:
    """Too many requests are answered or wait.

    Args:
        most: of both together.
    """
    return RefusedError(429, f"{most:,} requests are answered or wait already: ask again later", "too_many_requests")
