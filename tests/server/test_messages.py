"""Messages made into turns, keys into owners, and addresses that are fetched for others: no server runs here."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from prefixkv.errors import OptionError, PictureTooLargeError, PrefixKVError
from prefixkv.inputs import download
from prefixkv.inputs.download import fetch_public, is_public
from prefixkv.schemas.chat_request import ChatRequestSchema, MessageSchema
from prefixkv.server import home_file
from prefixkv.server.keys import NOBODY, Keys
from prefixkv.server.messages import read_messages
from tests.server.running import data_address, user

RED = Image.new("RGB", (4, 4), "red")
ADDRESS = data_address(RED)


def turns(*messages: dict[str, Any], **options: Any) -> Any:
    return read_messages([MessageSchema.model_validate(message) for message in messages], tuple, **options)


def test_messages_become_turns() -> None:
    system, found = turns(
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "text", "text": "Be right."}]},
        user("What is it?", RED, RED),
        {"role": "assistant", "content": [{"type": "text", "text": "A square."}]},
        {"role": "user", "content": "Which colour?"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "This"},
                {"type": "image_url", "image_url": {"url": ADDRESS}},
                {"type": "text", "text": "or that?"},
            ],
        },
    )
    assert system == "Be brief.\n\nBe right."
    assert [(turn.prompt, turn.answer, len(turn.images)) for turn in found] == [
        ("What is it?", "A square.", 2),
        ("Which colour? This or that?", None, 1),
    ]
    # Pictures before one text are as `chat` has them.
    assert found[0].layout is None
    assert found[1].layout == ("Which colour?", "This", None, "or that?")


def test_addresses_are_fetched_only_where_they_may_be() -> None:
    file = io.BytesIO()
    RED.save(file, "PNG")
    asked = user("What?", "https://example.org/a.png")
    with pytest.raises(OptionError, match="--allow-addresses"):
        turns(asked)
    _, found = turns(asked, fetch=lambda address: file.getvalue())
    assert found[0].images[0].size == (4, 4)
    for source in ("file:///etc/passwd", "/etc/passwd", "ftp://example.org/a.png", "a.png", 5, {"url": None}):
        with pytest.raises(OptionError):
            turns({"role": "user", "content": [{"type": "image", "image": source}, {"type": "text", "text": "?"}]})


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_only_the_internet_at_large_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A server of pictures on this machine, which redirects to itself, too."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_private_addresses_are_not_fetched_for_others(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = web.rpartition(":")[2]
    for address in (f"{web}/a.png", f"http://localhost:{port}/a.png", f"http://[::ffff:127.0.0.1]:{port}/a.png"):
        with pytest.raises(PrefixKVError, match="no public address"):
            fetch_public(address)
    # A name that is public, and leads elsewhere by redirection; the first connection is let through here.
    allowed = [True]
    real = download.is_public
    monkeypatch.setattr(download, "is_public", lambda place: allowed.pop() if allowed else real(place))
    with pytest.raises(PrefixKVError, match="no public address"):
        fetch_public(f"{web}/to/http://127.0.0.1:{port}/a.png")
    for elsewhere in ("ftp://127.0.0.1/a.png", "file:///etc/passwd"):
        allowed.append(True)
        with pytest.raises(PrefixKVError, match="cannot be fetched"):
            fetch_public(f"{web}/to/{elsewhere}")
    monkeypatch.setattr(download, "is_public", lambda place: True)
    assert fetch_public(f"{web}/a.png") == b"x" * 1000
    monkeypatch.setattr(download, "MOST_BYTES", 999)
    with pytest.raises(PictureTooLargeError, match="999"):
        fetch_public(f"{web}/a.png")


def test_a_proxy_is_not_asked_for_others(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", web)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **more: [(0, 0, 0, "", ("192.168.0.1", 80))])
    with pytest.raises(PrefixKVError, match="no public address"):
        fetch_public("http://example.org/a.png")


def test_each_key_is_an_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nabc\n\n  def \n")
    keys = Keys.read(file, "token")
    owners = {key: keys.owner(f"Bearer {key}") for key in ("abc", "def", "token")}
    assert len(set(owners.values())) == 3
    assert None not in owners.values()
    for wrong in (None, "", "Bearer", "Bearer ", "Bearer ab", "Bearer # ours", "Basic abc", "abc"):
        assert keys.owner(wrong) is None
    assert Keys.read(None).owner(None) == Keys.read(None).owner("Bearer any") == NOBODY
    for text, says in (("\n# none\n", "no API key"), ("a b\n", "white space")):
        file.write_text(text)
        with pytest.raises(PrefixKVError, match=says):
            Keys.read(file)


def test_the_home_file_is_believed_where_it_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    assert home_file.find_server() is None
    assert home_file.write_home_file("http://127.0.0.1:1", "t" * 20, "demo")
    path = home_file.home_file()
    assert path.stat().st_mode & 0o777 == 0o600
    found = home_file.find_server()
    assert found is not None
    assert (found.url, found.model) == ("http://127.0.0.1:1", "demo")
    assert not home_file.write_home_file("http://127.0.0.1:2", "u" * 20, "demo"), "another server runs"
    path.chmod(0o644)
    assert home_file.find_server() is None
    path.chmod(0o600)
    written = json.loads(path.read_text())
    for wrong in (
        written | {"version": 2},
        written | {"url": 8311},
        written | {"process": "1"},
        written | {"process": 2**40},
        {name: value for name, value in written.items() if name != "token"},
        [written],
    ):
        path.write_text(json.dumps(wrong))
        assert home_file.find_server() is None, wrong
    path.write_text(json.dumps(written))
    home_file.remove_home_file()
    assert not path.exists()
    with pytest.raises(PrefixKVError, match="token"):
        home_file.write_home_file("http://127.0.0.1:1", "short", "demo")


def test_fields_that_change_nothing_are_taken_and_others_refused() -> None:
    asked = {"messages": [{"role": "user", "content": "What?"}]}
    neutral = {"n": 1, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "user": "me"}
    neutral |= {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "stop": None, "seed": None}
    taken = ChatRequestSchema.model_validate(asked | neutral | {"budget": 0.2, "max_tokens": 5, "stop": "."})
    assert (taken.budget, taken.longest, taken.stop) == ("0.2", 5, ["."])
    assert ChatRequestSchema.model_validate(asked | {"max_tokens": 5, "max_completion_tokens": 7}).longest == 7
    for name, value in (
        ("n", 2),
        ("tools", [{}]),
        ("response_format", {"type": "json_object"}),
        ("frequency_penalty", 0.1),
        ("logit_bias", {"5": 1}),
        ("messages", []),
        ("messages", [{"role": "tool", "content": "x"}]),
        ("max_tokens", 2.5),
        ("temperature", "hot"),
        ("top_p", 0),
        ("budget", True),
        ("top_logprobs", 21),
    ):
        with pytest.raises(ValidationError):
            ChatRequestSchema.model_validate(asked | {name: value})
