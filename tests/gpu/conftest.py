"""The program in this process, the demo model loaded once for each dtype, and the report of what ran on the GPU."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.methods.table import METHODS
from prefixkv.models.loading import LoadedModel
from tests.cli.program import run_here
from tests.gpu.device import DEVICE
from tests.gpu.report import COMBINATION, VARIABLE, GpuReport

KERNEL_TESTS = Path(__file__).parents[1] / "kernels"
SEED = 11
"""Of the scene that most tests look at."""


def pytest_configure(config: pytest.Config) -> None:
    """Have the run reported where a file is named for it; of several processes, by the one that hears of all tests."""
    if (path := os.environ.get(VARIABLE)) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(GpuReport(Path(path)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count the tests of Triton's kernels among those that need a GPU, where all tests are asked for."""
    for item in items if config.option.all else ():
        if item.path.is_relative_to(KERNEL_TESTS) and "triton_device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@dataclass(frozen=True)
class Ended:
    """A run of the program.

    Attributes:
        code: its exit code.
        out: what it wrote to standard output.
        err: and to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one value on standard output."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The values on standard output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


Program = Callable[..., Ended]


@pytest.fixture
def program(record_property: Callable[[str, Any], None]) -> Program:
    """Run the program in this process; `code` is the exit code that is expected."""

    def program(*arguments: str, code: int = 0) -> Ended:
        done = run_here(*arguments)
        found = Ended(done.returncode, done.stdout, done.stderr)
        assert found.code == code, f"{' '.join(arguments)}\n{found.err}"
        assert "Traceback" not in found.err
        assert "Warning" not in found.err
        for combination in _combinations(arguments):
            record_property(COMBINATION, combination)
        return found

    return program


def _combinations(arguments: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Command, method and dtype of a command line, empty where it names none; one for each of several methods."""
    given = dict(itertools.pairwise(arguments))
    methods = given.get("--method", given.get("--methods", ""))
    names = list(METHODS) if methods == "all" else methods.split(",")
    return [(arguments[0], name, given.get("--dtype", "")) for name in names]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all these tests save; not where the user does."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture file that the demo model can be asked about."""
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    draw_scene(SEED).image.save(path)
    return path


@pytest.fixture(scope="session")
def demo() -> Callable[[str], LoadedModel]:
    """The demo model on the GPU, by dtype."""
    return functools.cache(lambda dtype: prefixkv.load_model("demo", device=DEVICE, dtype=dtype))
