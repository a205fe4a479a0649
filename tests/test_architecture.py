"""The direction of imports, and what importing costs."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("prefixkv", "prefixkv_cli", "tools") for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 300

LEVELS = (
    {
        "errors",
        "documents",
        "home",
        "host_memory",
        "html_table",
        "pixels",
        "platforms",
        "schemas",
        "transformers_compat",
    },
    {"models", "kernels"},
    {"methods", "inputs", "machine", "workers", "children"},
    {"policy"},
    {"cache"},
    {"profiles", "generation", "decoder"},
    {"engine"},
    {"compression", "chat", "evaluation", "benchmark"},
    {"batch", "harnesses", "server"},
)
"""From the bottom up: a part may import from its own level and from those below, and no two parts import each other."""

USES_NO_TRANSFORMERS = {*LEVELS[0] - {"transformers_compat"}, "kernels", *LEVELS[2], *LEVELS[3]}
USES_INSIDE_OF_TRANSFORMERS = {
    "transformers_compat",
    "cache/compressed_attention",
    "cache/refusals",
    "cache/states",
    "cache/windows",
    "models/pretrained",
}
"""Files that import modules of transformers which are no documented part of it; others take what `transformers` has."""
USES_NO_TORCH = {
    *LEVELS[0],
    "children",
    "policy/budget",
    "policy/codec",
    "methods/allocation",
    "methods/layers_read",
    "methods/table",
    "models/config_file",
    "models/decoder_defaults",
    "models/facts",
    "models/families",
    "models/files",
    "models/fitting",
    "models/generation_settings",
    "models/geometry",
    "models/layer_kinds",
    "models/layer_sizes",
    "models/lfs_pointers",
    "models/refused_types",
    "models/state_sizes",
    "models/type_results",
    "models/identity",
    "models/names",
    "models/picture_tokens",
    "models/shapes",
    "inputs/download",
    "inputs/heic",
    "inputs/images",
    "inputs/parts",
    "inputs/pdf_page",
    "inputs/picture_size",
    "inputs/picture_source",
    "inputs/png_chunks",
    "inputs/turn",
    "kernels/packed_row",
    "cache/usage",
    "evaluation/claims",
    "evaluation/other_processes",
    "engine/admission",
    "engine/counts",
    "engine/scheduler",
    "engine/stream",
    "engine/trace",
    "evaluation/figures",
    "generation/sampling",
    "profiles/calibration",
    "profiles/config",
    "profiles/profile",
    "profiles/profile_path",
    "server/failures",
    "server/home_file",
    "server/keys",
    "server/messages",
    "server/metrics",
    "chat/context_file",
    "chat/context_layout",
    "chat/context_pictures",
    "chat/reading",
}


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _names(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Full names of the modules that a file imports; with `everywhere` false, only what importing the file imports."""
    pending: list[ast.AST] = [_parsed(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif not everywhere and (isinstance(node, ast.FunctionDef) or _is_for_types_only(node)):
            continue
        pending.extend(ast.iter_child_nodes(node))


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _roots(path: Path, everywhere: bool = True) -> set[str]:
    return {name.split(".")[0] for name in _names(path, everywhere)}


def _part(path: Path) -> str:
    """The part of `prefixkv` that a file belongs to, `kernels` for `prefixkv/kernels/x.py`; empty for `__init__`."""
    part = path.relative_to(ROOT / "prefixkv").parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


ENGINE = [path for path in SOURCES if path.is_relative_to(ROOT / "prefixkv")]
CLI = [path for path in SOURCES if path.is_relative_to(ROOT / "prefixkv_cli")]


def _place(path: Path) -> str:
    """`cache/row` for `prefixkv/cache/row.py`."""
    return path.relative_to(ROOT / "prefixkv").with_suffix("").as_posix()


def _importing(paths: Iterable[Path], forbidden: set[str]) -> list[Path]:
    """Those of the files that import one of these packages."""
    return [path for path in paths if _roots(path) & forbidden]


def test_engine_knows_nothing_of_the_command_line() -> None:
    assert _importing(ENGINE, {"prefixkv_cli", "typer", "rich", "click", "prompt_toolkit"}) == []


def test_command_line_touches_no_tensor() -> None:
    assert _importing(CLI, {"torch", "transformers", "click"}) == []


def test_engine_imports_point_downwards() -> None:
    level = {module: number for number, modules in enumerate(LEVELS) for module in modules}
    upwards = []
    for path in ENGINE:
        part = _part(path)
        if part in ("", "demo"):
            continue
        assert part in level, f"give {part} a place in LEVELS"
        imported = {name.split(".")[1] for name in _names(path, everywhere=False) if name.startswith("prefixkv.")}
        upwards += [(path, name) for name in imported if level.get(name, -1) > level[part]]
    assert upwards == []


def test_no_two_parts_import_each_other() -> None:
    imports = {
        (_part(path), name.split(".")[1])
        for path in ENGINE
        for name in _names(path, everywhere=False)
        if name.startswith("prefixkv.") and _part(path) not in ("", "demo")
    }
    assert not [pair for pair in imports if pair[0] != pair[1] and pair[::-1] in imports]


def test_modules_that_need_no_torch_are_there() -> None:
    folder = ROOT / "prefixkv"
    assert not [
        name for name in USES_NO_TORCH if not (folder / name).is_dir() and not (folder / f"{name}.py").is_file()
    ]


def test_demo_is_imported_only_when_it_is_asked_for() -> None:
    others = [path for path in ENGINE if _part(path) != "demo"]
    assert [path for path in others if any(n.startswith("prefixkv.demo") for n in _names(path, everywhere=False))] == []


def test_transformers_stays_where_it_may_be() -> None:
    assert _importing((path for path in ENGINE if _part(path) in USES_NO_TRANSFORMERS), {"transformers"}) == []


def test_inside_of_transformers_is_known_to_few() -> None:
    knowing = {
        _place(path)
        for path in ENGINE
        if any(name.startswith("transformers.") and name.split(".")[1].islower() for name in _names(path))
    }
    assert knowing <= USES_INSIDE_OF_TRANSFORMERS


def test_plain_modules_know_nothing_of_torch() -> None:
    plain = [path for path in ENGINE if {_part(path), _place(path)} & USES_NO_TORCH]
    assert _importing(plain, {"torch"}) == []


def test_what_is_installed_needs_nothing_that_is_not() -> None:
    assert _importing([*ENGINE, *CLI], {"tools", "benchmarks", "tests"}) == []


def test_files_are_short_and_named_for_what_they_hold() -> None:
    assert [path for path in SOURCES if len(path.read_text().splitlines()) > MAX_LINES] == []
    assert [path for path in SOURCES if path.stem in {"utils", "common", "helpers", "misc"}] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import prefixkv",
        "import prefixkv_cli.app",
        "import prefixkv.models.loading, prefixkv.methods.table, prefixkv.inputs.images, prefixkv.demo.questions",
        "from prefixkv_cli.app import _run; _run(['--help'])",
        "from prefixkv_cli.app import _run; _run(['chat', '--help'])",
        "from prefixkv_cli.app import _run; _run(['--version'])",
        "from prefixkv_cli.app import _run; assert _run(['models']) == 0",
        "from prefixkv_cli.app import _run; assert _run(['info', 'demo']) == 0",
        "from prefixkv_cli.app import _run; assert _run(['info', 'llava', '--json']) == 0",
        "from prefixkv_cli.app import _run; _run(['chat', 'missing.png', '-p', 'hello'])",
        "from prefixkv_cli.app import _run; _run(['eval', '--help'])",
        "from prefixkv_cli.app import _run; _run(['eval', '--data', 'missing.json', '--model', 'demo'])",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    check = "import sys; sys.exit(', '.join({'torch', 'transformers', 'accelerate'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", f"{statement}\n{check}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["configs", "--help"], ["contexts", "--help"], ["--version"], ["models"]]
)
def test_formats_are_loaded_only_where_a_file_is_read(words: list[str]) -> None:
    check = f"import sys; from prefixkv_cli.app import _run; _run({words}); sys.exit('prefixkv.schemas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True).returncode == 0
