"""The limits on the page are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from prefixkv import documents
from prefixkv.chat import context_file
from prefixkv.inputs import download, images
from prefixkv.models import layer_kinds
from prefixkv.profiles import profile
from prefixkv.schemas import field
from tests.fuzz.__main__ import MOST_CASE_MIB, MOST_CASE_SECONDS

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
MIB, GIB = 2**20, 2**30


def test_limits_are_those_of_the_code() -> None:
    said = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    expected = {
        "profile, configuration": f"{documents.MOST_DOCUMENT_BYTES // MIB} MiB",
        "data files in JSON": f"{documents.MOST_BYTES // MIB} MiB",
        "batch answers, evaluation records": f"{documents.MOST_LINES_BYTES // GIB} GiB",
        "queries beside a profile": f"{profile.MOST_QUERIES_BYTES // GIB} GiB",
        "header of a saved context": f"{context_file.MOST_HEAD_BYTES // MIB} MiB",
        "lists and objects inside each other": f"{documents.MOST_NESTED}",
        "layers of a model": f"{layer_kinds.MOST_LAYERS:,}",
        "a value shown in a message": f"{field.MOST_SHOWN} characters",
        "a picture from the web": f"{download.MOST_BYTES // MIB} MiB, "
        f"{download.PATIENCE_SECONDS:g} seconds without data",
        "pixels of a picture": f"Pillow's limit, {Image.MAX_IMAGE_PIXELS:,} unless you change it",
        "longer side of a picture": f"{images.MOST_ELONGATED} times the shorter one",
        "picture formats": ", ".join(images.FORMATS),
    }
    assert {name: said.get(name) for name in expected} == expected
    assert layer_kinds.MOST_LAYERS == field.MOST_LAYERS


def test_what_a_case_may_take_is_that_of_the_program() -> None:
    text = " ".join(PAGE.split())
    assert f"a case of more than {MOST_CASE_SECONDS:g} seconds" in text
    assert f"more than {MOST_CASE_MIB:g} MiB" in text
