"""Torch's allocator is told how to hold a GPU's memory, unless the user has told it."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cli.program import ENVIRONMENT, Run, run_in_new_process


@pytest.mark.exhaustive(keep=1)
@pytest.mark.skipif(sys.platform != "linux", reason="blocks that grow are for Linux")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, dict.fromkeys(("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"), "expandable_segments:True")),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}),
    ],
)
def test_blocks_grow_unless_the_user_says_otherwise(given: dict[str, str], expected: dict[str, str], run: Run) -> None:
    done = run("env", "--json", env={**ENVIRONMENT, **given})
    assert done.returncode == 0, done.stderr
    variables = json.loads(done.stdout)["variables"]
    assert {name: value for name, value in variables.items() if "ALLOC" in name} == expected
    shown = run_in_new_process("env", env={**ENVIRONMENT, **given}).stdout.splitlines()
    by_us = [line for line in shown if "(set by prefixkv)" in line]
    assert [line.split()[0] for line in by_us] == ([] if given else list(expected))
