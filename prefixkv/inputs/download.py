"""Fetch a picture's bytes from the web. Knows nothing of torch."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from prefixkv import __version__
from prefixkv.errors import PictureTooLargeError, PrefixKVError

MOST_BYTES = 64 * 2**20
"""Longer answers of a server are not read."""
PATIENCE_SECONDS = 20.0
CHUNK_BYTES = 2**16


def fetch(url: str) -> bytes:
    """What a server has under an http or https address.

    Args:
        url: the address.

    Raises:
        PictureTooLargeError: it is larger than `MOST_BYTES`; no more than these are read.
        PrefixKVError: it cannot be had.
    """
    return _fetched(url, urllib.request.build_opener())


def fetch_public(url: str) -> bytes:
    """The same for an address that somebody else has given: no private one, nor one that leads to such by redirection.

    The address that a name stands for is looked at where it is connected to, so that it cannot be another meanwhile; no
    proxy is used, which would look it up itself; and the whole must be there within `PATIENCE_SECONDS`.

    Args:
        url: the address.

    Raises:
        PictureTooLargeError: it is larger than `MOST_BYTES`; no more than these are read.
        PrefixKVError: it cannot be had, or is on no public address.
    """
    opener = urllib.request.OpenerDirector()
    for handler in _PUBLIC_HANDLERS:
        opener.add_handler(handler())
    return _fetched(url, opener, time.monotonic() + PATIENCE_SECONDS)


def _fetched(url: str, opener: urllib.request.OpenerDirector, deadline: float | None = None) -> bytes:
    data = bytearray()
    try:
        request = urllib.request.Request(_in_ascii(url), headers={"User-Agent": f"prefixkv/{__version__}"})
        with opener.open(request, timeout=PATIENCE_SECONDS) as answer:
            while len(data) <= MOST_BYTES and (chunk := answer.read1(CHUNK_BYTES)):
                data += chunk
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError(f"it was not there within {PATIENCE_SECONDS:g} s")
    except urllib.error.HTTPError as error:
        raise PrefixKVError(f"image {url!r} cannot be fetched: the server says {error.code} {error.reason}") from None
    # A host that is not there, a time limit, a broken answer, an address that is none.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise PrefixKVError(
            f"image {url!r} cannot be fetched ({reason}): check the address and the network, or save it to a file"
        ) from None
    if len(data) > MOST_BYTES:
        raise PictureTooLargeError(f"image {url!r} is larger than {MOST_BYTES:,} bytes: save a smaller one to a file")
    return bytes(data)


def _connect_public(address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
    """A connection as of `socket.create_connection`, to public addresses only."""
    host, port = address
    found = [place[0] for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for place in found:
        if not is_public(str(place)):
            raise OSError(f"{host} is no public address")
    return socket.create_connection((str(found[0]), port), timeout, source_address)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large: not this machine, its network, or a reserved one."""
    place = ipaddress.ip_address(address.split("%")[0])
    if isinstance(place, ipaddress.IPv6Address):
        # Addresses of IPv4 within IPv6 are those of IPv4.
        inner = place.ipv4_mapped or place.sixtofour
        if inner is not None:
            place = inner
        elif place in ipaddress.ip_network("64:ff9b::/96"):
            place = ipaddress.IPv4Address(int(place) & 0xFFFFFFFF)
    return place.is_global and not place.is_multicast


class _PublicHTTPConnection(http.client.HTTPConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_public


class _PublicHTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_public


class _PublicHTTP(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHTTPConnection, req)


class _PublicHTTPS(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PublicHTTPSConnection, req)


_PUBLIC_HANDLERS: tuple[type[urllib.request.BaseHandler], ...] = (
    *(_PublicHTTP, _PublicHTTPS, urllib.request.HTTPRedirectHandler),
    *(urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler),
)
"""No others: a redirection may name ftp, too."""


def _in_ascii(url: str) -> str:
    """An address as servers take it: its host in Punycode, other letters as escaped UTF-8.

    Raises:
        ValueError: it is no address.
    """
    parts = urlsplit(url)
    host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
    kept = "%/:=&?~#+!$,;'@()*[]"
    path, query = (quote(part, safe=kept, encoding="utf-8", errors="surrogateescape") for part in parts[2:4])
    return urlunsplit((parts.scheme, host, path, query, ""))
