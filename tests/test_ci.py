"""What CI's summary says, and that its lowest environment takes every lower bound."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = importlib.util.spec_from_file_location("ci_environments", ROOT / ".ci" / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    # Not where a run of CI, which these tests may be part of, has its own files.
    module.HOME = tmp_path_factory.mktemp("ci")
    return module


def test_every_requirement_is_taken_at_its_lower_bound(ci: Any) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    names = re.findall(r'"([A-Za-z0-9_-]+)', listed[1])
    pins = dict(pin.split("==") for pin in ci.lower_bounds().split())
    assert len(names) > 10
    assert set(names) <= set(pins)
    assert "pytest" in pins
    assert all(f'"{name}>={version}' in text for name, version in pins.items())


def test_a_failing_part_does_not_hide_the_next(ci: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """One installation fails, and one part of another environment; the rest runs, and the end says so."""
    made: list[str] = []

    class Make(ci.Environment):
        def make(self, *arguments: str) -> list[str]:
            made.append(f"{self.folder} {arguments[0]}")
            fails = self.folder == "broken" or arguments[0] == "lint"
            return [sys.executable, "-c", f"import sys; sys.exit({int(fails)})"]

    environments = {
        "X": Make("broken", "broken", (), {"part": ("demo",)}),
        "Y": Make("whole", "whole", (), {"first": ("lint",), "second": ("demo",)}),
    }
    monkeypatch.setattr(ci, "environments", lambda: environments)
    assert ci.main([]) == 1
    assert sorted(made) == ["broken install", "whole demo", "whole install", "whole lint"]
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 2 failed"
    assert ci.main(["Y"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 1 failed"


def test_what_pytest_tells_is_counted(ci: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "test_three.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_not_here(): pytest.skip('no such machine')\n"
    )
    words = ["-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]

    class Make(ci.Environment):
        def make(self, *arguments: str) -> list[str]:
            return [sys.executable, *words, *arguments[1].removeprefix("ARGS=").split()] if arguments[1:] else ["true"]

    monkeypatch.setattr(ci, "environments", lambda: {"X": Make("whole", "whole", (), {"tests": ("test",)})})
    assert ci.main([]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "1 passed, 1 failed, 1 skipped"
    assert "skipped 1: no such machine" in said
    assert "failed: " in said
    assert "test_three.py::test_bad" in said


def test_interpreters_that_are_listed_run(ci: Any) -> None:
    found = ci.interpreters()
    assert sys.version_info.minor in found or not found
    for minor, python in found.items():
        told = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
        assert told.startswith(f"Python 3.{minor}.")


def test_totals_leave_skips_out_where_there_are_none(ci: Any, capsys: Any) -> None:
    outcome = ci.Outcome("X", "part", Counter(passed=3), 1.0)
    ci.report([outcome], {"X": ci.Environment("x", "x", (), {})}, 60.0)
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 0 failed"
