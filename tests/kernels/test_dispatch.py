"""Which Triton the kernels take."""

from __future__ import annotations

import sys
import types

import pytest

from prefixkv.kernels.dispatch import triton_obstacle


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("3.2.0", "Triton is 3.2.0 and must be 3.6 or newer"),
        ("3.6.0", None),
        ("3.10.0+git", None),
        ("4.0.0", None),
    ],
)
def test_an_old_triton_is_not_taken(monkeypatch: pytest.MonkeyPatch, version: str, says: str | None) -> None:
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__=version))
    assert triton_obstacle.__wrapped__() == says


def test_without_triton_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert triton_obstacle.__wrapped__() == "Triton is not installed"
