"""Fetch a picture's bytes from the web. Knows nothing of torch."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit, urlunsplit

from prefixkv import __version__
from prefixkv.errors import PrefixKVError

MOST_BYTES = 64 * 2**20
"""Longer answers of a server are not read."""
PATIENCE_SECONDS = 20.0


def fetch(url: str) -> bytes:
    """What a server has under an http or https address.

    Args:
        url: the address.

    Raises:
        PrefixKVError: it cannot be had, or is too large.
    """
    try:
        request = urllib.request.Request(_in_ascii(url), headers={"User-Agent": f"prefixkv/{__version__}"})
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise PrefixKVError(f"image {url!r} cannot be fetched: the server says {error.code} {error.reason}") from None
    # A host that is not there, a time limit, a broken answer, an address that is none.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise PrefixKVError(
            f"image {url!r} cannot be fetched ({reason}): check the address and the network, or save it to a file"
        ) from None
    if len(data) > MOST_BYTES:
        raise PrefixKVError(f"image {url!r} is larger than {MOST_BYTES:,} bytes: save a smaller one to a file")
    return data


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
