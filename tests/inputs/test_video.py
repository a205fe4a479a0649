"""Films as pictures: how many, from where in the film, and what is said where there are none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefixkv.errors import PrefixKVError
from prefixkv.inputs.video import FRAMES, is_film, open_film
from prefixkv_cli.dialogue.picture_input import dropped_pictures, open_pictures

SECONDS, RATE = 2, 25


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds that become brighter from black to white."""
    av: Any = pytest.importorskip("av", reason="PyAV is not installed: prefixkv[video]")
    path = tmp_path_factory.mktemp("film") / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for index in range(SECONDS * RATE):
            grey = np.full((32, 64, 3), 255 * index // (SECONDS * RATE - 1), dtype=np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(("behind", "count"), [("", FRAMES), ("#frames=3", 3), ("#frames=1", 1)])
def test_pictures_are_spread_over_the_film(film: Path, behind: str, count: int) -> None:
    pictures = open_pictures(f"{film}{behind}")
    assert [picture.size for picture in pictures] == [(64, 32)] * count
    bright = [float(np.asarray(picture).mean()) for picture in pictures]
    assert bright == pytest.approx([255 * (part + 0.5) / count for part in range(count)], abs=10)
    assert [picture.info["name"] for picture in pictures] == [f"{film} at {second:.2f} s" for second in _times(count)]


def _times(count: int) -> list[float]:
    """The beginnings of the frames in the middle of each part."""
    return [int((part + 0.5) / count * SECONDS * RATE) / RATE for part in range(count)]


def test_no_picture_is_given_twice(film: Path) -> None:
    pictures = open_film(f"{film}#frames=200")
    assert len({picture.info["name"] for picture in pictures}) == len(pictures) == SECONDS * RATE


def test_a_film_can_be_dropped_into_a_line(film: Path) -> None:
    assert dropped_pictures(f"{film} what moves?") == ([str(film)], "what moves?")


@pytest.mark.parametrize("content", [b"no film at all", b"#EXTM3U\n#EXTINF:1,\nhttp://localhost/a.ts\n"])
def test_what_is_no_film_is_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: prefixkv[video]")
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(PrefixKVError, match=r"clip\.mp4' cannot be read") as refused:
        open_film(str(path))
    assert "\n" not in str(refused.value)


def test_too_many_pictures_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefixKVError, match="#frames=1 to #frames=256"):
        open_film(f"{tmp_path / 'clip.mp4'}#frames=257")
    with pytest.raises(PrefixKVError, match="does not exist"):
        open_film(str(tmp_path / "clip.mp4"))


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").write_bytes(b"film")
    with pytest.raises(PrefixKVError, match=r"install `prefixkv\[video\]`"):
        open_film(str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("clip.mp4", True),
        ("a b.MOV#frames=4", True),
        ("file:///a.webm", True),
        ("clip.gif", False),
        ("https://example.org/clip.mp4", False),
        ("clip.mp4.png", False),
    ],
)
def test_films_are_known_by_their_names(source: str, is_one: bool) -> None:
    assert is_film(source) is is_one
