"""A hub of models on this machine's own network: what it answers, and what it was asked."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LoopbackHub:
    """A hub with one model, or one that answers everything with an error.

    Attributes:
        url: for HF_ENDPOINT.
        asked: method and path of each request, in order.
        status: what everything is answered with instead of what is there; None for the model.
    """

    def __init__(self, model: str, folder: Path | None = None, status: int | None = None) -> None:
        """Begin to listen.

        Args:
            model: the one hub id that there is.
            folder: its files.
            status: see the attribute.
        """
        self.status, self.asked = status, list[str]()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                path = unquote(urlsplit(self.path).path)
                if hub.status is not None:
                    self._say(hub.status, b"")
                elif path == f"/api/models/{model}":
                    files = sorted(file for file in folder.rglob("*") if file.is_file()) if folder else []
                    siblings = [
                        {"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files
                    ]
                    self._say(200, json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode())
                elif path.startswith(f"/{model}/resolve/") and folder:
                    file = folder / path.split("/resolve/")[1].split("/", 1)[1]
                    self._say(200, file.read_bytes()) if file.is_file() else self._say(404, b"", "EntryNotFound")
                else:
                    self._say(404, b"", "RepoNotFound")

            def do_HEAD(self) -> None:
                self.do_GET()

            def _say(self, status: int, body: bytes, error: str = "") -> None:
                self.send_response(status)
                if error:
                    self.send_header("X-Error-Code", error)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more: whoever asks is refused."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def silent_hub() -> Iterator[str]:
    """The address of a hub that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
