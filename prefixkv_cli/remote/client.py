"""One conversation with a server by OpenAI's API, question after question."""

from __future__ import annotations

import http.client
import io
import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv_cli.remote.choice import ServerAddress

if TYPE_CHECKING:
    from PIL.Image import Image

PATIENCE_SECONDS = 600.0
"""For the next piece of an answer; others may be answered before it."""


class UnreachableError(PrefixKVError):
    """Nothing answers at a server's address."""


class RemoteConversation:
    """A conversation that a server answers.

    Attributes:
        server: where it is.
        model: that answers; empty before the first answer where it is not known.
        answer: the newest one.
        facts: of the newest answer, as `prefixkv chat --json` has them.
    """

    def __init__(self, server: ServerAddress, system: str, pictures: Sequence[Image], options: dict[str, Any]) -> None:
        """Begin.

        Args:
            server: where.
            system: instructions; empty for none.
            pictures: before the first question.
            options: further fields of every request.
        """
        self.server, self.model = server, server.model
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._pictures, self._options = list(pictures), options
        self.answer = ""
        self.facts: dict[str, Any] = {}

    def ask(self, question: str) -> Generator[str, None, None]:
        """Ask and stream the answer; closing the iterator ends it.

        Args:
            question: the text.

        Yields:
            Pieces of the answer.

        Raises:
            UnreachableError: nothing answers.
            PrefixKVError: the server does not answer this; says why.
        """
        pictures = [{"type": "image_url", "image_url": {"url": _address(picture)}} for picture in self._pictures]
        content: Any = [*pictures, {"type": "text", "text": question}] if pictures else question
        messages = [*self._messages, {"role": "user", "content": content}]
        self.answer, self.facts = "", {}
        asked = {**self._options, "messages": messages, "stream": True}
        if self.server.model:
            asked["model"] = self.server.model
        with self._opened(asked) as reply:
            for chunk in _events(reply):
                if "error" in chunk:
                    raise PrefixKVError(_said(chunk))
                self.model = chunk["model"]
                self.facts = chunk.get("prefixkv", self.facts)
                piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
                if piece:
                    self.answer += piece
                    yield piece
        if not self.facts:
            raise PrefixKVError(f"the server at {self.server.url} has ended before its answer did")
        self._messages, self._pictures = [*messages, {"role": "assistant", "content": self.answer}], []

    def _opened(self, asked: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.server.key:
            headers["Authorization"] = f"Bearer {self.server.key}"
        url = f"{self.server.url}/v1/chat/completions"
        request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
        # What an environment has as proxy is for the web, not for a server at hand.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=PATIENCE_SECONDS)
        except urllib.error.HTTPError as error:
            kind = BudgetTooSmallError if error.code == 413 else PrefixKVError
            raise kind(_refusal(error)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise UnreachableError(
                f"no server answers at {self.server.url} ({reason}): start `prefixkv serve`, or give --server off"
            ) from None


def _address(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _events(reply: Any) -> Generator[dict[str, Any], None, None]:
    """The objects of a stream of events."""
    try:
        for line in reply:
            text = line.decode().strip()
            if text == "data: [DONE]":
                return
            if text.startswith("data: "):
                yield json.loads(text.removeprefix("data: "))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PrefixKVError(f"the server has ended before its answer did ({error}): ask again") from None


def _refusal(error: urllib.error.HTTPError) -> str:
    try:
        return _said(json.loads(error.read()))
    except (OSError, ValueError, KeyError, TypeError):
        return f"the server says {error.code} {error.reason}"


def _said(content: dict[str, Any]) -> str:
    return str(content["error"]["message"])
