"""A method from outside the package: by every path that takes one, and what is said of one that is of no use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import prefixkv
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.evaluation.cells import Cell, cells_of
from prefixkv.methods.h2o import H2O
from prefixkv.methods.layers_read import LayersRead
from prefixkv.methods.method import Method
from prefixkv.methods.table import METHODS, get_method, method_names
from tests import tiny
from tests.cli.conftest import model_folder, picture, run
from tests.cli.program import Run
from tests.methods import own_method
from tests.methods.own_method import NAME

__all__ = ["model_folder", "picture", "run"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an installed package whose method nobody has asked for yet."""
    folder = tmp_path / "installed"
    folder.mkdir()
    own_method.install(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    METHODS.pop(NAME, None)
    sys.modules.pop("short_keys", None)


@pytest.fixture
def method(package: Path) -> Method:
    return get_method(NAME)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.llama(layers=4)


def test_every_command_takes_it_by_name(
    run: Run, package: Path, model_folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    asked = ["--model", str(model_folder), "--device", "cpu", "--method", NAME, "--budget", "30%"]
    answer = ["--max-new-tokens", "4"]

    def result(*words: str) -> str:
        done = run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    spoken = json.loads(result("chat", str(picture), "-p", "ba ce", *asked, *answer, "--json"))
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"image": str(picture), "prompt": "ba ce"}) + "\n", encoding="utf-8")
    out = tmp_path / "answers.jsonl"
    result("batch", str(lines), "--out", str(out), *asked, *answer)
    assert json.loads(out.read_text(encoding="utf-8"))["answer"] == spoken["answer"]
    result("save", str(picture), "--name", "kept", *asked)
    again = json.loads(result("chat", "--context", "kept", "-p", "ba ce", "--device", "cpu", *answer, "--json"))
    assert again["kv"]["kept_bytes"] < again["kv"]["full_bytes"] / 2
    result(
        "search",
        "--model",
        str(model_folder),
        "--budget",
        "30%",
        "--method",
        NAME,
        "--allocation",
        "uniform",
        "--name",
        "x",
    )
    result("chat", str(picture), "-p", "ba ce", "--config", "x", *asked[:4], *answer)


@pytest.mark.exhaustive
def test_evaluation_takes_it(run: Run, package: Path, tmp_path: Path) -> None:
    asked = ["--model", "demo", "--data", "scenes:2", "--budgets", "20%", "--methods", NAME, "--processes", "1"]
    done = run("eval", *asked, "--device", "cpu", "--out", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    assert NAME in [cell["method"] for cell in json.loads(done.stdout)["cells"]]


def test_library_takes_it_by_name_and_as_it_is(model: Any, method: Method) -> None:
    ids = torch.randint(0, 190, (1, 60), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 6, "do_sample": False}
    answers = []
    for asked in (NAME, method):
        with prefixkv.compress(model, "30%", asked) as cache:
            answers.append(model.generate(ids, **cache.argument, **options)[0, 60:].tolist())
            shares = [layer.kept_tokens for layer in cache.usage().layers]
            assert shares[0] > shares[-1]
        with prefixkv.Engine(model, method=asked, memory="1GB") as engine:
            answers.append(engine.submit({"input_ids": ids}, "30%", prefixkv.Sampling(max_new_tokens=6)).result())
    assert all(answer == answers[0] for answer in answers)


def test_names_are_known_before_the_package_is_loaded(package: Path) -> None:
    assert method_names() == [*METHODS, NAME]
    with pytest.raises(OptionError, match=f"did you mean '{NAME}'"):
        get_method("short-kezs")
    assert NAME not in METHODS
    assert NAME in [cell.method for cell in cells_of("all", "20%")]


def test_records_tell_versions_apart(package: Path) -> None:
    before = Cell(NAME, "20%").recipe(None)
    assert before == Cell(NAME, "20%").recipe(None)
    from prefixkv.evaluation import engine

    file = package / "short_keys.py"
    file.write_text(file.read_text(encoding="utf-8") + "\n# Another version.\n", encoding="utf-8")
    engine._source_digest.cache_clear()
    assert Cell(NAME, "20%").recipe(None) != before


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        ("short-keys = short_keys:NOTHING", "fails: AttributeError"),
        ("short-keys = no_such_module:METHOD", "fails: ModuleNotFoundError"),
        ("short-keys = short_keys:shortness", "is no method: give a prefixkv.Method"),
        (
            "other = short_keys:SHORT_KEYS",
            "short_keys:SHORT_KEYS of an installed package, calls itself 'short-",
        ),
    ],
)
def test_entry_point_of_no_use_is_told_in_one_line(
    run: Run, package: Path, picture: Path, entry_point: str, message: str
) -> None:
    own_method.install(package, entry_point)
    done = run("chat", str(picture), "-p", "ba", "--method", entry_point.split(" ")[0], "--model", "demo")
    assert done.returncode != 0
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert NAME not in METHODS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Mine!"}, "a name has up to 40 of"),
        ({"allocate": None}, "give both score and allocate"),
        ({"score": 3}, "score must be a function, and is of type int"),
        ({"shares": "sometimes"}, "choose one of known, falling, final"),
        ({"window": "none"}, "choose one of distance, recent, all, least"),
        ({"recent_tokens": -1}, "whole numbers from 0 on"),
    ],
)
def test_method_that_cannot_be_run_is_not_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(H2O, **changes)


def test_name_is_taken_once(method: Method) -> None:
    assert prefixkv.register_method(method) is method
    with pytest.raises(OptionError, match="is there already"):
        prefixkv.register_method(replace(method, recent_tokens=2))
    with pytest.raises(OptionError, match="is there already"):
        prefixkv.register_method(replace(method, name="h2o"))


def _kept(model: Any, method: Method, budget: str = "30%") -> PrefixKVCache:
    ids = torch.randint(0, 190, (1, 50), generator=torch.Generator().manual_seed(1))
    with prefixkv.compress(model, budget, method) as cache:
        model.generate(ids, **cache.argument, max_new_tokens=3, do_sample=False)
    return cache


def _tops(importance: torch.Tensor, kept: int) -> torch.Tensor:
    """The newest entry and those that are most important."""
    others = importance[..., :-1].topk(kept - 1).indices
    return torch.cat([torch.full_like(others[..., :1], importance.shape[-1] - 1), others], dim=-1)


def _curve_shares(read: LayersRead) -> list[int]:
    """The more entries a layer needs for half of its importance, the more it keeps; asked when all have read."""
    needs = [sum(value < 0.5 for value in curve) + 1 for curve in read.curves]
    return [max(read.floor, read.total * need // sum(needs) - 1) for need in needs]


def test_own_allocation_and_selection(model: Any) -> None:
    """Entries are chosen by the method's own `select`, in layers whose shares are found when all have read."""
    own = replace(H2O, name="own", allocate=_curve_shares, shares="final", select=_tops, recent_fraction=0.0)
    shares = [layer.kept_tokens for layer in _kept(model, own).usage().layers]
    assert len(set(shares)) > 1
    even = replace(own, allocate=H2O.allocate, shares="known")
    plain = replace(even, select=None)
    chosen, usual = (_kept(model, each).row for each in (even, plain))
    for layer in range(4):
        assert chosen.kept_positions(layer)[..., 3:].tolist() == usual.kept_positions(layer)[..., 3:].tolist()


def _fails(*arguments: Any) -> Any:
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": lambda evidence: evidence.keys}, "must score 1 x 2 x 50 entries, and gives"),
        ({"score": lambda evidence: evidence.places * float("nan")}, "must give finite floats"),
        ({"score": lambda evidence: -evidence.places, "shares": "final"}, "no score may be negative"),
        ({"score": _fails}, "fails: RuntimeError: no idea"),
        ({"allocate": lambda read: [read.total] * read.layers}, "must give each of 4 layers"),
        ({"allocate": lambda read: [9]}, "must give each of 4 layers"),
        ({"allocate": lambda read: ["many"]}, "fails: ValueError"),
        ({"select": lambda importance, kept: importance}, "must select"),
        ({"select": lambda importance, kept: importance[..., :kept].long() * 0}, "different ones of 50"),
    ],
)
def test_what_its_functions_return_is_checked(model: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefixKVError, match=message):
        _kept(model, replace(H2O, name="bad", **changes))
