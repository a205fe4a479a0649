"""What a user writes for a picture means the same wherever it is given."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from prefixkv.batch.lines import read_lines
from prefixkv.demo.documents.document import draw_document
from prefixkv.demo.drawn import strange_pictures
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.evaluation.data import read_questions
from prefixkv.inputs.download import _in_ascii
from prefixkv.inputs.picture_source import check_source, open_source
from prefixkv_cli.dialogue.picture_input import open_picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 10)).save(tmp_path / "a b.png")
    return tmp_path


@pytest.mark.parametrize("kind", ["path", "file", "escaped", "relative", "data", "data with blanks", "plain data"])
def test_source_means_the_same_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(folder)
    path = folder / "a b.png"
    content = base64.b64encode(path.read_bytes()).decode()
    source = {
        "path": str(path),
        "file": f"file://{path}",
        "escaped": f"file://{quote(str(path))}",
        "relative": "a b.png",
        "data": f"data:image/png;base64,{content}",
        "data with blanks": f"DATA:image/png;base64,{content[:40]}\n {content[40:]}",
        "plain data": f"data:image/png,{quote(path.read_bytes())}",
    }[kind]
    (folder / "q.jsonl").write_text(json.dumps({"image": source, "prompt": "What?"}) + "\n")
    (folder / "q.json").write_text(json.dumps([{"image": source, "question": "What?", "answer": "?"}]))
    (line,) = read_lines(folder / "q.jsonl")
    (question,) = read_questions(folder / "q.json", None, None, False)
    assert question.picture is not None
    pictures = [open_picture(source), *line.pictures(folder), question.picture()]
    assert [picture.size for picture in pictures] == [(20, 10)] * 3


def test_what_is_drawn_means_the_same_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "q.jsonl").write_text('{"image": "drawn:receipt:8", "prompt": "What?"}\n')
    (line,) = read_lines(folder / "q.jsonl")
    drawn = draw_document(8, "receipt").image
    for picture in (open_picture("drawn:receipt:8"), *line.pictures(folder)):
        assert picture.tobytes() == drawn.tobytes()
        assert (picture.info["name"], strange_pictures([picture])) == ("drawn:receipt:8", [])
    assert open_picture("drawn:shapes:3").tobytes() == draw_scene(3).image.tobytes()
    check_source("drawn:receipt:8")
    with pytest.raises(OptionError, match="nothing of kind 'cat' is drawn: give shapes, receipt"):
        open_picture("drawn:cat:8")
    with pytest.raises(PrefixKVError, match="does not exist"):
        open_picture("drawn:receipt:-1")


def test_null_is_no_picture(folder: Path) -> None:
    (folder / "q.jsonl").write_text('{"image": null, "prompt": "What?"}\n')
    (line,) = read_lines(folder / "q.jsonl")
    assert (line.error, line.sources) == (None, ())


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,???", "no base64"),
        ("data:image/png;base64,iVBORw0KGgo=", "no picture|broken"),
        ("data:,", "0 bytes"),
        ("data:" + "x" * 5000, "no comma"),
        ("~nosuch-user/x.png", "home folder"),
        ("x" * 300 + ".png", "cannot be opened"),
        ("a\0.png", "cannot be opened|does not exist"),
        ("http://[broken/x.png", "cannot be fetched"),
    ],
)
def test_source_that_is_none_is_refused_in_one_short_line(source: str, says: str) -> None:
    with pytest.raises(PrefixKVError, match=says) as caught:
        open_source(source)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    (folder / "a b.png").rename(folder / "bücher 図.png")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_address_with_letters_that_are_not_ascii_is_fetched(server: str) -> None:
    assert open_source(f"{server}/bücher 図.png").size == (20, 10)
    assert open_source(f"{server}/b%C3%BCcher%20{quote('図')}.png").size == (20, 10)


def test_host_that_is_not_ascii_is_asked_by_its_punycode() -> None:
    assert _in_ascii("https://bücher.example/ü?q=ä&r=%20#top") == "https://xn--bcher-kva.example/%C3%BC?q=%C3%A4&r=%20"
