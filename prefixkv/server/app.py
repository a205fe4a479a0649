"""The server's addresses: chat completions, models, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from prefixkv.documents import parse_json
from prefixkv.engine.stream import Stream
from prefixkv.schemas.chat_request import ChatRequestSchema
from prefixkv.schemas.field import refusal
from prefixkv.server.completion import Completion
from prefixkv.server.desk import Desk
from prefixkv.server.failures import RefusedError, too_busy, wrong_key
from prefixkv.server.keys import Keys
from prefixkv.server.metrics import Metrics

MOST_BODY_BYTES = 64 * 2**20
"""Of a request."""
THREADS = 4
"""Make requests into prompts."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """How much is taken on.

    Attributes:
        requests: that are answered or wait at the same time; further ones are sent away.
        is_local: whether only this machine can reach the server: then it answers to this machine's names alone, so
            that no page of a browser can have its own name lead here.
    """

    requests: int
    is_local: bool


class Service:
    """Answers requests of HTTP."""

    def __init__(self, desk: Desk, keys: Keys, limits: Limits) -> None:
        self._desk, self._keys, self._limits = desk, keys, limits
        self._open = self._being_read = 0
        self._threads = ThreadPoolExecutor(THREADS, "prefixkv-requests")
        self.metrics = Metrics(desk.engine.counts, lambda: self._being_read)
        self._began = int(time.time())
        self._alarm = _Alarm(self.metrics)

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/v1/chat/completions", self._answered(self._complete), methods=["POST"]),
            Route("/v1/models", self._answered(self._models)),
            Route("/v1/models/{name:path}", self._answered(self._models)),
            Route("/metrics", self._answered(self._metrics)),
            Route("/health", self._health),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_place}, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._desk.engine.close)

    def _answered(self, endpoint: Callable[[Request, str], Awaitable[Response]]) -> Any:
        """An endpoint for those who may ask; its errors in OpenAI's shape."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request, self._owner(request))
            except ClientDisconnect:
                raise
            except Exception as error:
                return self.refused(error)

        return answer

    def refused(self, error: Exception) -> Response:
        """The answer to a request that has none."""
        found = RefusedError.of(error)
        self.metrics.count(found.status)
        headers = {"Retry-After": "1"} if found.status == 429 else None
        return JSONResponse(found.body, found.status, headers)

    def _owner(self, request: Request) -> str:
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._limits.is_local and name not in LOCAL_NAMES:
            raise RefusedError(400, f"this server answers to {', '.join(LOCAL_NAMES)} only, not to {name[:100]!r}")
        owner = self._keys.owner(request.headers.get("authorization"))
        if owner is None:
            raise wrong_key()
        return owner

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self._desk.frontend.id})

    async def _metrics(self, request: Request, owner: str) -> Response:
        text = await asyncio.to_thread(self.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: Request, owner: str) -> Response:
        models = [
            {"id": name, "object": "model", "created": self._began, "owned_by": "prefixkv"} for name in self._desk.names
        ]
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": models})
        if name not in self._desk.names:
            raise RefusedError(
                404, f"model {name[:100]!r} is not served: ask for {self._desk.names[0]!r}", "model_not_found"
            )
        return JSONResponse(models[self._desk.names.index(name)])

    async def _complete(self, request: Request, owner: str) -> Response:
        if self._open >= self._limits.requests:
            raise too_busy(self._limits.requests)
        self._open += 1
        try:
            self._being_read += 1
            try:
                asked = _parsed(await _body(request))
                loop, woken = asyncio.get_running_loop(), asyncio.Event()
                wake = self._alarm.waking(loop, woken)
                taken = await loop.run_in_executor(self._threads, self._desk.ask, asked, owner, wake)
            finally:
                self._being_read -= 1
            completion = Completion(self._desk, taken, woken)
            options = asked.stream_options
            return _Answer(
                self, completion, taken.stream, asked.stream or False, bool(options and options.include_usage)
            )
        except BaseException:
            self._open -= 1
            raise

    def close_one(self, stream: Stream) -> None:
        """A request has its answer, or nobody waits for it any more."""
        self._open -= 1
        if not stream.is_done:
            stream.cancel()


class _Alarm:
    """Tells the event loop, from the engine's thread, which streams have changed.

    The loop is woken once for all that it has not looked at yet: each time costs the engine a call of the system,
    during which the loop's thread goes before it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._changed: deque[asyncio.Event] = deque()
        self._is_rung = False

    def waking(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> Callable[[Stream], None]:
        """What a stream is to call when it has changed."""

        def changed(stream: Stream) -> None:
            if stream.is_done:
                self._metrics.count_stream(stream)
            self._changed.append(event)
            if not self._is_rung:
                self._is_rung = True
                # A loop that has ended has nobody who waits.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._ring)

        return changed

    def _ring(self) -> None:
        # Before looking: who adds one later rings again.
        self._is_rung = False
        while self._changed:
            self._changed.popleft().set()


class _Answer(Response):
    """Sends an answer, whole or in pieces, and cancels the request when the client goes away."""

    def __init__(
        self, service: Service, completion: Completion, stream: Stream, in_pieces: bool, include_usage: bool
    ) -> None:
        self._service, self._completion, self._stream = service, completion, stream
        self._in_pieces, self._include_usage = in_pieces, include_usage
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send_all = self._send_pieces(send) if self._in_pieces else self._send_whole(scope, receive, send)
        work, gone = asyncio.ensure_future(send_all), asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._service.close_one(self._stream)
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response: Response = JSONResponse(await self._completion.whole())
            self._service.metrics.count(200)
        except Exception as error:
            response = self._service.refused(error)
        await response(scope, receive, send)

    async def _send_pieces(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        status = 200
        try:
            async for event in self._completion.events(self._include_usage):
                await _send_event(send, event)
        except Exception as error:
            found = RefusedError.of(error)
            status = found.status
            await _send_event(send, json.dumps(found.body))
        self._service.metrics.count(status)
        await _send_event(send, "[DONE]")
        await send({"type": "http.response.body", "body": b""})


async def _send_event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    """Wait until the client is not there any more."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    """What the client sends.

    Raises:
        RefusedError: it is too large, or no JSON by its own account; a page in a browser may send other types unasked.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(400, f"the content type is {kind[:100]!r}: send application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RefusedError(
                413, f"the request is larger than {MOST_BODY_BYTES:,} bytes: send smaller pictures", "too_large"
            )
    return bytes(body)


def _parsed(body: bytes) -> ChatRequestSchema:
    try:
        content = parse_json(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is no JSON") from None
    try:
        return ChatRequestSchema.model_validate(content)
    except ValidationError as error:
        raise RefusedError(400, refusal(error)) from None


async def _no_such_place(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = f"{request.method} {request.url.path[:100]} is nothing that this server has: POST /v1/chat/completions"
    return JSONResponse(RefusedError(status, text).body, status)
