"""Requests to one server by HTTP. No proxy is asked: what an environment has as one is for the web."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

PING_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
"""For the next piece of an answer; others may be answered before it."""


class Connection:
    """One request after another; it connects, and connects again where it was closed, by itself."""

    def __init__(self, url: str) -> None:
        """Begin; nothing is sent yet.

        Args:
            url: with http or https, without `/v1`.

        Raises:
            HTTPException: it is no address.
        """
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http, self._path = kind(parts.netloc), parts.path

    def is_there(self) -> bool:
        """Whether the server answers at once."""
        try:
            self._wait_for(PING_SECONDS)
            self._http.request("GET", f"{self._path}/health")
            reply = self._http.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return False
        return reply.status == 200

    def post(self, place: str, body: bytes, key: str) -> http.client.HTTPResponse:
        """Send JSON, and wait until an answer begins.

        Args:
            place: path behind the address.
            body: the JSON.
            key: for the server; empty for none.

        Raises:
            OSError: nothing answers.
            HTTPException: what answers does not speak HTTP.
        """
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._wait_for(PATIENCE_SECONDS)
        self._http.request("POST", f"{self._path}{place}", body, headers)
        return self._http.getresponse()

    def close(self) -> None:
        """Hang up; what is being answered is not waited for."""
        self._http.close()

    def _wait_for(self, seconds: float) -> None:
        self._http.timeout = seconds
        if self._http.sock is not None:
            self._http.sock.settimeout(seconds)
