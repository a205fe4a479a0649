"""One answer in the shapes of OpenAI's chat completions: whole, or piece by piece."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from prefixkv import __version__
from prefixkv.generation.logprobs import Logprobs
from prefixkv.server.desk import Asked, Desk

FINISH = {"stop": "stop", "length": "length", "interrupted": "length"}


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Attributes:
        text: may be empty, where only tokens are told.
        logprobs: of its tokens, as OpenAI has them; None where they were not asked for.
    """

    text: str
    logprobs: list[dict[str, Any]] | None

    def with_next(self, piece: Piece) -> Piece:
        """One piece of this and the one behind it."""
        logprobs = None if self.logprobs is None else [*self.logprobs, *(piece.logprobs or ())]
        return Piece(self.text + piece.text, logprobs)


class Completion:
    """An answer on its way to the client."""

    def __init__(self, desk: Desk, asked: Asked, woken: asyncio.Event) -> None:
        """Begin.

        Args:
            desk: has taken it.
            asked: the request, which the engine has.
            woken: set when a token has come and when the answer has ended.
        """
        self._desk, self._asked, self._woken = desk, asked, woken
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": desk.frontend.id,
            "system_fingerprint": f"prefixkv-{__version__}",
        }
        self._pending: list[dict[str, Any]] = []

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer as it grows: what has come since the piece before, however many tokens that is.

        Raises:
            PrefixKVError: it has ended in an error.
        """
        stream, writer, given = self._asked.stream, self._asked.writer, 0
        while True:
            self._woken.clear()
            is_done, tokens = stream.is_done, stream.tokens_from(given)
            grown: Piece | None = None
            for place, token in enumerate(tokens, start=given):
                text = writer.push(token)
                if place < len(stream.logprobs) and token not in self._desk.ends:
                    self._pending.append(self._scored(token, stream.logprobs[place]))
                if piece := self._piece(text):
                    grown = piece if grown is None else grown.with_next(piece)
            if grown is not None:
                yield grown
            given += len(tokens)
            if is_done:
                break
            await self._woken.wait()
        stream.result(0)
        if piece := self._piece(writer.end(), is_last=True):
            yield piece

    def _piece(self, text: str, is_last: bool = False) -> Piece | None:
        """A piece with the tokens that have made it; those of a stop text are never told."""
        if not text and not is_last:
            return None
        if self._asked.sampling.logprobs is None:
            return Piece(text, None) if text else None
        pending, self._pending = self._pending, []
        if not text and self._asked.writer.has_stopped:
            return None
        return Piece(text, pending) if pending or text else None

    def _scored(self, token: int, logprobs: Logprobs) -> dict[str, Any]:
        likeliest = [self._named(other, value) for other, value in logprobs.likeliest]
        return self._named(token, logprobs.chosen) | {"top_logprobs": likeliest}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        tokenizer = self._desk.frontend.tokenizer
        text, spelt = tokenizer.decode([token]), tokenizer.convert_ids_to_tokens(token)
        # Of a first token tokenizers leave the white space before it out.
        if isinstance(spelt, str) and spelt.startswith("\u2581") and not text.startswith(" "):
            text = f" {text}"
        # JSON has no number for the logarithm of nothing.
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode())}

    async def whole(self) -> dict[str, Any]:
        """The answer when it has ended.

        Raises:
            PrefixKVError: it has ended in an error.
        """
        pieces = [piece async for piece in self.pieces()]
        message = {"role": "assistant", "content": self._asked.writer.text, "refusal": None}
        told = [token for piece in pieces for token in piece.logprobs or ()]
        logprobs = None if self._asked.sampling.logprobs is None else {"content": told, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": self._reason()}
        more = {"choices": [choice], "usage": self._usage(), "prefixkv": self._facts()}
        return {**self._head, "object": "chat.completion", **more}

    async def events(self, include_usage: bool) -> AsyncIterator[str]:
        """The answer piece by piece, each as the JSON of a chunk.

        Args:
            include_usage: whether a last chunk says what it cost.

        Raises:
            PrefixKVError: it has ended in an error.
        """
        yield json.dumps(self._chunk({"role": "assistant", "content": ""}))
        # All chunks of a text differ in nothing but the text: the rest is written once.
        before, _, after = json.dumps(self._chunk({"content": self._head["id"]})).rpartition(
            json.dumps(self._head["id"])
        )
        async for piece in self.pieces():
            if piece.logprobs is None:
                yield f"{before}{json.dumps(piece.text)}{after}"
            else:
                logprobs = {"content": piece.logprobs, "refusal": None}
                yield json.dumps(self._chunk({"content": piece.text}, logprobs))
        yield json.dumps(self._chunk({}, None, self._reason()) | {"prefixkv": self._facts()})
        if include_usage:
            usage = {"choices": [], "usage": self._usage()}
            yield json.dumps({**self._head, "object": "chat.completion.chunk", **usage})

    def _chunk(self, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def _reason(self) -> str:
        return FINISH[self._asked.writer.answer(0).finish_reason]

    def _usage(self) -> dict[str, Any]:
        stream = self._asked.stream
        new = self._asked.writer.tokens
        return {
            "prompt_tokens": stream.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": stream.prompt_tokens + new,
            "prompt_tokens_details": {"cached_tokens": stream.cached_tokens},
        }

    def _facts(self) -> dict[str, Any]:
        """What `prefixkv chat --json` says of an answer beside its text."""
        stream, usage = self._asked.stream, self._asked.stream.usage
        answer = self._asked.writer.answer(stream.prompt_tokens)
        return {
            **self._asked.rule,
            "prompt_tokens": stream.prompt_tokens,
            "new_tokens": answer.new_tokens,
            "finish_reason": answer.finish_reason,
            "kv": None if usage is None else usage.as_dict(),
            "seconds": {"load": 0.0, "prefill": answer.prefill_seconds, "decode": answer.decode_seconds},
            "tokens_per_second": answer.tokens_per_second,
            "peak_device_bytes": self._desk.engine.peak_bytes,
            "warnings": self._asked.notices,
            **({} if self._asked.pictures is None else {"pictures": self._asked.pictures}),
        }
