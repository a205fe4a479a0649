"""The server as a program: a socket, a loop, and an orderly end at Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from prefixkv.errors import EngineLostError, OptionError, PrefixKVError
from prefixkv.host_memory import given_back
from prefixkv.server.app import Limits, Service
from prefixkv.server.desk import Desk
from prefixkv.server.home_file import remove_home_file, write_home_file
from prefixkv.server.keys import Keys
from prefixkv.server.remote_engine import RemoteEngine

END_SECONDS = 3
"""Answers may go on for so long when the server is to end."""


@dataclass(frozen=True)
class Place:
    """Where a server listens, and who may ask.

    Attributes:
        host: a name or an address.
        port: 0 for any that is free.
        key_file: API keys, one a line; None where everybody who reaches the server may ask.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Refuse to be open to others without a key.

        Raises:
            OptionError: it would be.
        """
        if not 0 <= self.port < 2**16:
            raise OptionError(f"port {self.port} is outside 0 .. 65535")
        if not self.is_local and self.key_file is None:
            raise OptionError(f"host {self.host!r} is open to others: give --api-key-file, or --host 127.0.0.1")

    def listening(self) -> socket.socket:
        """A socket.

        Raises:
            PrefixKVError: nothing can listen there.
        """
        try:
            family, kind, number, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, number)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Who finds the address before the loop runs waits rather than being refused.
            listener.listen()
        except OSError as error:
            reason = error.strerror or str(error)
            raise PrefixKVError(
                f"nothing can listen at {self.host}, port {self.port} ({reason}): give another --port"
            ) from None
        return listener


def serve(
    desk: Desk, engine: RemoteEngine | None, place: Place, most_requests: int, begun: Callable[[str, bool], None]
) -> None:
    """Answer requests until the process is told to end, or the engine's process has ended.

    Args:
        desk: takes them.
        engine: the desk's, where it is in another process; None where it is in this one.
        place: where.
        most_requests: that are answered or wait at the same time.
        begun: called with the address when requests can come, and whether commands of this user find it by themselves.

    Raises:
        PrefixKVError: nothing can listen there, or the keys cannot be read.
        EngineLostError: the engine's process has ended.
    """
    place.check()
    token = secrets.token_urlsafe(24)
    service = Service(desk, Keys.read(place.key_file, token), Limits(most_requests, place.is_local))
    with contextlib.closing(place.listening()) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        config = uvicorn.Config(
            service.app(),
            log_level="error",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=END_SECONDS,
        )
        # Before the file says where this is: a signal that ends it meanwhile leaves none behind.
        desk.warm_up()
        is_found = place.is_local and write_home_file(url, token, desk.frontend.id)
        server = _Server(config, lambda: begun(url, is_found))
        if engine is not None:
            engine.when_lost(server.end)
        try:
            with given_back():
                server.run(sockets=[listener])
        finally:
            remove_home_file()
    if engine is not None and isinstance(engine.failure, EngineLostError):
        raise engine.failure


class _Server(uvicorn.Server):
    """Ends without being killed by the signal that ends it, so that what comes behind it is done."""

    def __init__(self, config: Any, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._begun = begun

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._begun()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def end(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self._end_sooner)

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self) -> None:
        """End; may be called in any thread."""
        self.should_exit = True

    def _end_sooner(self) -> None:
        self.force_exit = self.should_exit
        self.end()
