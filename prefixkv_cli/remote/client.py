"""One conversation with a server by OpenAI's API, question after question."""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from prefixkv.errors import BudgetTooSmallError, PrefixKVError
from prefixkv_cli.remote.choice import ServerAddress
from prefixkv_cli.remote.connection import Connection


class UnreachableError(PrefixKVError):
    """Nothing answers at a server's address."""


class SentPicture(NamedTuple):
    """A picture on its way to a server.

    Attributes:
        name: what the user calls it.
        url: a data: address with a picture file in it.
        facts: `sha256` of its pixels, `width` and `height`; None where the server is asked for them.
    """

    name: str
    url: str
    facts: dict[str, Any] | None = None


class RemoteConversation:
    """A conversation that a server answers.

    Attributes:
        server: where it is.
        model: that answers; empty before the first answer where it is not known.
        pictures: of the newest question.
        answer: the newest one.
        facts: of the newest answer, as `prefixkv chat --json` has them.
    """

    def __init__(
        self, server: ServerAddress, system: str, pictures: Sequence[SentPicture], options: dict[str, Any]
    ) -> None:
        """Begin.

        Args:
            server: where.
            system: instructions; empty for none.
            pictures: before the first question.
            options: further fields of every request.
        """
        self.server, self.model = server, server.model
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self._next_pictures, self._options = list(pictures), options
        self.pictures: list[SentPicture] = []
        self.answer = ""
        self.facts: dict[str, Any] = {}
        self._asked: list[dict[str, Any]] = []
        self._connection: Connection | None = None
        self._reply: Any = None

    def is_there(self) -> bool:
        """Whether the server answers at once."""
        try:
            return self._connected().is_there()
        except http.client.HTTPException:
            return False

    def begin(self, question: str) -> None:
        """Ask, and wait until the server has taken the question; its answer is behind `pieces`.

        Args:
            question: the text.

        Raises:
            UnreachableError: nothing answers.
            PrefixKVError: the server does not answer this; says why.
        """
        self.pictures = self._next_pictures
        pictures = [{"type": "image_url", "image_url": {"url": picture.url}} for picture in self.pictures]
        content: Any = [*pictures, {"type": "text", "text": question}] if pictures else question
        self._asked = [*self._messages, {"role": "user", "content": content}]
        self.answer, self.facts = "", {}
        asked = {**self._options, "messages": self._asked, "stream": True}
        if self.server.model:
            asked["model"] = self.server.model
        try:
            self._reply = self._connected().post("/v1/chat/completions", json.dumps(asked).encode(), self.server.key)
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"no server answers at {self.server.url} ({error}): start `prefixkv serve`, or give --server off"
            ) from None
        if self._reply.status != 200:
            kind = BudgetTooSmallError if self._reply.status == 413 else PrefixKVError
            raise kind(_refusal(self._reply))

    def pieces(self) -> Generator[str, None, None]:
        """Stream the answer to the question that was asked last; closing the iterator ends it.

        Yields:
            Pieces of the answer.

        Raises:
            PrefixKVError: the server does not answer it to its end; says why.
        """
        try:
            for chunk in _events(self._reply):
                if "error" in chunk:
                    raise PrefixKVError(_said(chunk))
                self.model = chunk["model"]
                self.facts = chunk.get("prefixkv", self.facts)
                piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
                if piece:
                    self.answer += piece
                    yield piece
        finally:
            # A server keeps no connection open for as long as a user may think about the next question.
            self._connected().close()
        if not self.facts:
            raise PrefixKVError(f"the server at {self.server.url} has ended before its answer did")
        self._messages, self._next_pictures = [*self._asked, {"role": "assistant", "content": self.answer}], []

    def ask(self, question: str) -> Generator[str, None, None]:
        """Ask and stream the answer; see `begin` and `pieces`."""
        self.begin(question)
        yield from self.pieces()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self.server.url)
        return self._connection


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


def _refusal(reply: Any) -> str:
    try:
        return _said(json.loads(reply.read()))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return f"the server says {reply.status} {reply.reason}"


def _said(content: dict[str, Any]) -> str:
    return str(content["error"]["message"])
