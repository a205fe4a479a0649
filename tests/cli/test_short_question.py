"""A question in its plainest form is asked of the user's server as the usual way asks it, or else goes that way."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefixkv.inputs.images import open_image, picture_facts
from prefixkv.server.home_file import write_home_file
from prefixkv_cli.remote.short_question import OPTIONS, ShortQuestion, read_short
from tests.cli.program import environment, run_here

FACTS = {"method": "guided", "codec": "auto", "budget": "20%", "prompt_tokens": 9, "new_tokens": 2, "kv": None}
FACTS |= {"finish_reason": "stop", "seconds": {"load": 0.0, "prefill": 0.1, "decode": 0.1}, "tokens_per_second": 1.0}
FACTS |= {"peak_device_bytes": 1, "warnings": ["told by the server"]}


class Listening:
    """A server that answers every question alike, or refuses those that say a word."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuses = self.breaks = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(200, b"{}")

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(asked | {"key": self.headers["Authorization"]})
                if outer.refuses:
                    self._send(400, json.dumps({"error": {"message": "not this one"}}).encode())
                    return
                facts = {**FACTS, "pictures": [{"sha256": "f" * 64, "width": 1, "height": 1}]}
                lines = [_chunk({"content": "four "}), _chunk({"content": "red"}), _chunk({}) | {"prefixkv": facts}]
                if outer.breaks:
                    lines[1:] = [{"error": {"message": "no more of it"}}]
                self._send(200, b"".join(b"data: %s\n\n" % json.dumps(line).encode() for line in lines))

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Listening:
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _chunk(delta: dict[str, str]) -> dict[str, Any]:
    return {"model": "demo", "choices": [{"index": 0, "delta": delta}]}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    with Listening() as it:
        assert write_home_file(it.url, "t" * 20, "demo")
        yield it


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("pictures") / "scene.png")
    assert run_here("demo-scene", path, "--seed", "31").returncode == 0
    return path


def test_it_sends_what_the_usual_way_sends_and_the_file_as_it_is(server: Listening, scene: str) -> None:
    short = run_here("chat", scene, "-p", "How many?")
    usual = run_here("chat", scene, "-p", "How many?", "--top-p", "1")
    assert (short.stdout, short.stderr, short.returncode) == (usual.stdout, usual.stderr, 0)
    assert (short.stdout, short.stderr) == ("four red\n", "note: told by the server\n")
    first, second = server.asked
    assert first.pop("known_pictures_only") is True
    assert first.pop("picture_facts") is False
    urls = [asked["messages"][0]["content"][0]["image_url"].pop("url") for asked in (first, second)]
    assert first == second
    assert first["key"] == f"Bearer {'t' * 20}"
    head, content = urls[0].split(",")
    assert (head, base64.b64decode(content)) == ("data:image/png;base64", Path(scene).read_bytes())


def test_its_options_are_the_defaults_that_the_help_names(server: Listening, scene: str) -> None:
    run_here("chat", scene, "-p", "How many?", "--method", "guided")
    assert {name: server.asked[0][name] for name in OPTIONS} == OPTIONS


def test_options_are_sent_as_the_usual_way_sends_them(server: Listening, scene: str) -> None:
    words = ("chat", scene, "-p", "How many?", "--budget", "5%", "--max-new-tokens", "7", "--model", "demo")
    assert run_here(*words).stdout == run_here(*words, "--top-p", "1").stdout == "four red\n"
    first, second = server.asked
    assert first.pop("known_pictures_only") is False, "who names the model has it answer whatever is shown"
    assert first.pop("picture_facts") is False
    for asked in (first, second):
        del asked["messages"][0]["content"][0]["image_url"]["url"]
    assert first == second


def test_another_model_than_the_servers_is_not_asked_of_it(server: Listening, scene: str, tmp_path: Path) -> None:
    done = run_here("chat", scene, "-p", "How many?", "--model", str(tmp_path))
    assert (done.returncode, server.asked) == (1, [])


def test_one_object_and_the_log_are_as_ever(server: Listening, scene: str) -> None:
    env = environment() | {"PREFIXKV_LOG": "true"}
    found = json.loads(run_here("chat", scene, "--prompt", "How many?", "--json", "-q", env=env).stdout)
    assert (found["answer"], found["warnings"], "pictures" in found) == ("four red", ["told by the server"], False)
    assert server.asked[0]["picture_facts"] is True
    (entry,) = json.loads(run_here("log", "list", "--json").stdout)["answers"]
    assert entry["pictures"] == [{"name": scene, "sha256": "f" * 64}]
    usual = run_here("chat", scene, "-p", "How many?", "--top-p", "1", "--log")
    assert usual.returncode == 0
    entries = json.loads(run_here("log", "list", "--json").stdout)["answers"]
    own = picture_facts(open_image(scene))["sha256"]
    assert [each["pictures"][0]["sha256"] for each in entries] == ["f" * 64, own]
    run_here("chat", scene, "-p", "How many?", "--no-log", env=env)
    assert len(json.loads(run_here("log", "list", "--json").stdout)["answers"]) == 2


def test_what_the_server_refuses_is_said_by_the_usual_way(server: Listening, scene: str) -> None:
    server.refuses = True
    done = run_here("chat", scene, "-p", "How many?")
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("", "error: not this one\n", 1)
    assert ["known_pictures_only" in asked for asked in server.asked] == [True, False]


def test_an_answer_that_breaks_off_is_an_error_and_not_asked_again(server: Listening, scene: str) -> None:
    server.breaks = True
    done = run_here("chat", scene, "-p", "How many?")
    assert (done.stdout, done.stderr, done.returncode) == ("four \n", "error: no more of it\n", 1)
    assert len(server.asked) == 1


def test_pictures_that_cannot_be_read_are_refused_here(server: Listening, scene: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(scene).read_bytes()[:2000])
    server.refuses = True
    for path, says in ((broken, "is broken or cut off"), (tmp_path / "none.png", "does not exist: check the path")):
        done = run_here("chat", str(path), "-p", "How many?")
        assert done.returncode == 1
        assert says in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert len(server.asked) == 1, "what is no file is not even sent"


@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("chat|a.png|-p|Why?", ShortQuestion(("a.png",), "Why?", frozenset(), "auto", {})),
        (
            "chat|-p|-why|a.png|b.jpg|--json|-q|--model|demo|--budget|5%|--max-new-tokens|9",
            ShortQuestion(
                ("a.png", "b.jpg"),
                "-why",
                frozenset({"--json", "-q"}),
                "demo",
                {"budget": "5%", "max_completion_tokens": 9},
            ),
        ),
        ("chat|a.png|-p|Why?|--budget|5%|--budget|6%", None),
        ("chat|a.png|-p|Why?|--max-new-tokens|+9", None),
        ("chat|a.png|-p|Why?|--max-new-tokens|0", None),
        ("chat|a.png|-p|Why?|-p|And?", None),
        ("chat|a.png|-p", None),
        ("chat|a.png|-p| ", None),
        ("chat|a.png|-p|-", None),
        ("chat|a.png", None),
        ("chat|-p|Why?", None),
        ("chat|a.png|-pWhy?", None),
        ("chat|a.png|--prompt=Why?", None),
        ("chat|a.png|-p|Why?|--log|--no-log", None),
        ("chat|a.png|-p|Why?|--method|h2o", None),
        ("chat|a.png|-p|Why?|--", None),
        ("save|a.png|-p|Why?", None),
        ("--debug|chat|a.png|-p|Why?", None),
        ("", None),
    ],
)
def test_only_the_plainest_words_are_short(
    words: str, short: ShortQuestion | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PREFIXKV_HOME": str(tmp_path)})
    assert read_short(words.split("|")) == short


@pytest.mark.parametrize("name", ["PREFIXKV_BUDGET", "PREFIXKV_SERVER", "_PREFIXKV_COMPLETE", "PREFIXKV_LOG"])
def test_variables_and_settings_that_say_more_go_the_usual_way(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["chat", "a.png", "-p", "Why?"]
    monkeypatch.setattr(os, "environ", {"PREFIXKV_HOME": str(tmp_path)})
    assert read_short(words) is not None
    monkeypatch.setattr(os, "environ", {"PREFIXKV_HOME": str(tmp_path), name: "off"})
    assert read_short(words) is None
    monkeypatch.setattr(os, "environ", {"PREFIXKV_HOME": str(tmp_path)})
    (tmp_path / "settings.toml").write_text("budget = '5%'\n")
    assert read_short(words) is None
