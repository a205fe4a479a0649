"""Figures of an evaluation on GPUs: the same in every run and by any number of processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.program import launched
from tests.gpu.conftest import Program
from tests.gpu.device import DEVICE

pytestmark = pytest.mark.gpu

WHAT = ("--data", "scenes:70:5", "--methods", "prefixkv,guided", "--budgets", "20%")
HOW = ("--model", "demo", "--device", DEVICE, "--dtype", "bfloat16", "--max-new-tokens", "12", "--json")
EVAL = ("eval", *WHAT, *HOW)
ROOT = Path(__file__).parents[2]


def records(folder: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """All records of a folder, by sample, method and budget."""
    lines = [json.loads(line) for file in folder.glob("records-*.jsonl") for line in file.read_text().splitlines()]
    return {(line["sample"], line["method"], line["budget"]): line for line in lines}


def assert_same(one: Path, other: Path) -> None:
    """Two folders hold the same records, to the last digit."""
    ours, theirs = records(one), records(other)
    assert ours.keys() == theirs.keys()
    found = [
        f"{key} {name}: {ours[key][name]} and {theirs[key][name]}"
        for key in sorted(ours)
        for name in ours[key]
        if ours[key][name] != theirs[key].get(name)
    ]
    assert not found, "\n".join([f"{len(found)} figures of {len(ours)} records differ", *found[:60]])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of one process, started for them alone."""
    folder = tmp_path_factory.mktemp("alone") / "eval"
    done = started(sys.executable, "-m", "prefixkv_cli", *EVAL, "--out", str(folder), "--processes", "1")
    assert done.returncode == 0, done.stderr
    return folder


def started(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def test_another_run_gives_the_same(program: Program, alone: Path, tmp_path: Path) -> None:
    """In this process, which has done other things before."""
    program(*EVAL, "--out", str(tmp_path / "eval"), "--processes", "1")
    assert_same(alone, tmp_path / "eval")


def test_processes_on_one_gpu_give_the_same(program: Program, alone: Path, tmp_path: Path) -> None:
    done = program(*EVAL, "--out", str(tmp_path / "eval"), "--processes", "2")
    assert done.err.count("s to start and") == 2
    assert_same(alone, tmp_path / "eval")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_processes_on_two_gpus_give_the_same(alone: Path, tmp_path: Path) -> None:
    """And leave no process group open, which NCCL would tell at the end."""
    done = started(*launched("--multi_gpu", "--num_processes", "2"), *EVAL, "--out", str(tmp_path / "eval"))
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    assert done.stderr.count("s to start and") == 2
    assert_same(alone, tmp_path / "eval")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_processes_that_the_program_starts_have_a_gpu_each(program: Program, alone: Path, tmp_path: Path) -> None:
    done = program(*EVAL, "--out", str(tmp_path / "eval"), "--processes", "2")
    assert "share" not in done.err
    assert done.err.count("s to start and") == 2
    assert_same(alone, tmp_path / "eval")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_lines_answered_on_two_gpus_are_those_of_one(program: Program, tmp_path: Path) -> None:
    asked = ("batch", "--data", "scenes:24:5", "--model", "demo", "--dtype", "float32", "--max-new-tokens", "12")
    for count in ("1", "2"):
        done = program(*asked, "--processes", count, "--out", str(tmp_path / f"{count}.jsonl"), "--json")
        assert len(done.json["speed"]["processes"]) == int(count)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
