"""The notebook runs from its first cell to its last, and shows tables where it promises them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
RUN = """
import ast, json, sys
shown, names = [], {"__name__": "__main__"}
for cell in json.load(sys.stdin):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
json.dump(shown, open(sys.argv[1], "w"))
"""
"""What a notebook's kernel does with its cells: the last expression of each is shown."""


def test_it_has_no_outputs_of_somebody_else() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    assert not [cell for cell in content["cells"] if cell.get("outputs") or cell.get("execution_count")]


@pytest.mark.exhaustive
def test_it_runs_and_shows_tables(tmp_path: Path) -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "shown.json")],
        input=json.dumps(code),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "PREFIXKV_HOME": str(tmp_path), "PYTHONWARNINGS": "error::FutureWarning"},
    )
    assert done.returncode == 0, done.stderr
    full, fifth, _ = done.stdout.split("\n\n", 2)
    assert full.startswith("The image shows 7 objects.")
    assert fifth == full
    shown = json.loads((tmp_path / "shown.json").read_text(encoding="utf-8"))
    assert shown[2] == "(True, False)"
    assert shown[4] == "'7'"
    assert [shown[index].startswith("<table>") for index in (3, 5, 7)] == [True] * 3
