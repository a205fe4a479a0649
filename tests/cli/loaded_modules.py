"""What commands print and which modules they load, one command after the other in one new interpreter.

How long a command takes to begin depends on the machine; what it imports does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cli.program import environment

_SCRIPT = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from prefixkv_cli.app import _run
told = []
for words in json.load(sys.stdin):
    with redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)) as out:
        with redirect_stderr(io.StringIO()) as err:
            code = _run(words)
    told.append([code, out.buffer.getvalue().decode(), err.getvalue(), sorted({n.split(".")[0] for n in sys.modules})])
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Loaded:
    """One command's end.

    Attributes:
        modules: packages that were loaded by then, by this command or one before it.
    """

    exit_code: int
    stdout: str
    stderr: str
    modules: frozenset[str]


def what_is_loaded(commands: list[list[str]], cwd: Path | None = None) -> list[Loaded]:
    """Run commands that need no model.

    Args:
        commands: their words.
        cwd: working directory, if not this process's.

    Returns:
        One for each.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        timeout=400,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [Loaded(code, out, err, frozenset(names)) for code, out, err, names in json.loads(done.stdout)]
