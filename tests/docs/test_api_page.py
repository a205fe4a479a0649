"""The Python reference lists every public name, once."""

from __future__ import annotations

import re

import prefixkv
from tests.docs.pages import ROOT


def test_every_public_name_has_its_place() -> None:
    listed = re.findall(r"^::: prefixkv\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(set(prefixkv.__all__) - {"__version__"})
