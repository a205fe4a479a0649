"""Where pictures come from: addresses, the clipboard, and lines that they were dropped in."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageGrab

from prefixkv.errors import PrefixKVError
from prefixkv_cli.dialogue.picture_input import dropped_pictures, open_picture


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("plain.png", "two words.png", "it's.JPG"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "pictures", "rest"),
    [
        ("{folder}/plain.png", ["{folder}/plain.png"], ""),
        ("'{folder}/two words.png' ", ["{folder}/two words.png"], ""),
        ('"{folder}/it\'s.JPG"', ["{folder}/it's.JPG"], ""),
        ("{folder}/two\\ words.png {folder}/plain.png", ["{folder}/two words.png", "{folder}/plain.png"], ""),
        ("file://{folder}/two%20words.png", ["file://{folder}/two%20words.png"], ""),
        ("What is in plain.png please", ["plain.png"], "What is in please"),
        ("What is in other.png please", [], "What is in other.png please"),
        ("{folder}/missing.png", ["{folder}/missing.png"], ""),
        ("What's in notes.txt?", [], "What's in notes.txt?"),
        ("Is it 3.5 or '4'?", [], "Is it 3.5 or '4'?"),
        ("keep   these\n spaces", [], "keep   these\n spaces"),
    ],
)
def test_pictures_are_taken_out_of_a_line(files: Path, line: str, pictures: list[str], rest: str) -> None:
    folder = str(files)
    found, left = dropped_pictures(line.format(folder=folder))
    assert found == [picture.format(folder=folder) for picture in pictures]
    assert left == rest


@pytest.mark.parametrize("source", ["plain.png", "file://{folder}/plain.png", "file://localhost{folder}/plain.png"])
def test_local_pictures_are_opened(files: Path, source: str) -> None:
    assert open_picture(source.format(folder=files)).size == (20, 10)


class _Handler(http.server.BaseHTTPRequestHandler):
    content: bytes = b""

    def do_GET(self) -> None:
        found = self.path == "/picture.png"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(self.content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(files: Path) -> Iterator[str]:
    _Handler.content = (files / "plain.png").read_bytes()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()


def test_picture_is_fetched_from_an_address(server: str) -> None:
    image = open_picture(f"{server}/picture.png")
    assert image.size == (20, 10)
    assert image.info["name"] == f"{server}/picture.png"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("{server}/missing.png", "the server says 404"),
        ("http://127.0.0.1:9/picture.png", "cannot be fetched"),
        ("http:///picture.png", "cannot be fetched"),
        ("http://[::1/picture.png", "cannot be fetched"),
    ],
)
def test_address_without_a_picture_says_why(server: str, address: str, says: str) -> None:
    with pytest.raises(PrefixKVError, match=says):
        open_picture(address.format(server=server))


def test_address_of_something_too_large_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixkv.inputs.download.MOST_BYTES", 20)
    with pytest.raises(PrefixKVError, match="larger than 20 bytes"):
        open_picture(f"{server}/picture.png")


def test_clipboard_gives_its_picture_or_says_what_is_missing(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = [Image.new("RGBA", (7, 5)), [str(files / "plain.png")], None, OSError("no clipboard here")]

    def grab() -> Any:
        content = held.pop(0)
        if isinstance(content, Exception):
            raise content
        return content

    monkeypatch.setattr(ImageGrab, "grabclipboard", grab)
    assert open_picture("clipboard").size == (7, 5)
    assert open_picture("clipboard").size == (20, 10)
    with pytest.raises(PrefixKVError, match="no picture in the clipboard"):
        open_picture("clipboard")
    with pytest.raises(PrefixKVError, match="no clipboard here"):
        open_picture("clipboard")
