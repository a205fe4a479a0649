"""A profile that several processes measure is, byte for byte, the one that one process measures."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.program import ENVIRONMENT, Run, launched


@pytest.mark.exhaustive
def test_two_processes_measure_what_one_measures(run: Run, tmp_path: Path, model_folder: Path) -> None:
    """`--multi_gpu` starts two, with the CPU as their device; `--cpu` would start one without an MPI host file."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(5):
        Image.linear_gradient("L").rotate(70 * index).convert("RGB").save(pictures / f"{index}.png")
    arguments = ["profile", "--model", str(model_folder), "--images", str(pictures), "--device", "cpu", "--json"]
    alone = run(*arguments, "--out", str(tmp_path / "alone.json"))
    assert alone.returncode == 0, alone.stderr
    out = tmp_path / "together.json"
    command = [*launched("--multi_gpu", "--num_processes", "2"), *arguments, "--out", str(out)]
    together = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("saved ") == 1
    assert together.stdout.replace("together-", "alone-") == alone.stdout
    queries = [sorted(path.read_bytes() for path in tmp_path.glob(f"{name}-*")) for name in ("alone", "together")]
    assert queries[0] == queries[1] != []
    assert out.read_bytes() == (tmp_path / "alone.json").read_bytes().replace(b"alone-", b"together-")
