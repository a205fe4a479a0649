"""What is said on other machines than those that the tests cover, and that the program needs nothing of POSIX there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import prefixkv
from prefixkv.kernels.dispatch import triton_obstacle
from prefixkv.platforms import platform_notice

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("system", "device", "hip", "says"),
    [
        ("linux", "cpu", None, None),
        ("linux", "cuda", None, None),
        ("linux", "cpu", "6.4", None),
        ("linux", "cuda", "6.4", "ROCm 6.4"),
        ("darwin", "cpu", None, "macOS"),
        ("darwin", "mps", None, "--device cpu"),
        ("win32", "cpu", None, "Windows"),
        ("win32", "cuda", None, "prefixkv env"),
        ("freebsd14", "cpu", None, "freebsd14"),
    ],
)
def test_untested_machines_are_told_in_one_line(system: str, device: str, hip: str | None, says: str | None) -> None:
    notice = platform_notice(system, device, hip)
    if says is None:
        assert notice is None
    else:
        assert notice is not None
        assert says in notice
        assert "\n" not in notice


def test_loading_a_model_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixkv.models.loading.platform_notice", lambda *given: f"told {given[1]}")
    notices: list[str] = []
    prefixkv.load_model("demo", device="cpu", notify=notices.append)
    assert "told cpu" in notices


def test_kernels_are_not_taken_by_a_torch_for_amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert triton_obstacle.__wrapped__() == "this torch is for AMD's GPUs, and the kernels are for NVIDIA's"


WITHOUT_POSIX = """
import os, sys
import platformdirs, psutil
import torch, transformers, accelerate, PIL.Image, safetensors.torch, matplotlib.pyplot, prompt_toolkit, multiprocessing
for name in ("fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "getuid", "killpg", "register_at_fork", "sched_getaffinity", "sysconf", "uname", "wait3"):
    if hasattr(os, name):
        delattr(os, name)
psutil.Process.memory_info = lambda self: type("Info", (), {"peak_wset": 2**30})
from prefixkv_cli.app import _run
for words in %r:
    code = _run(words)
    if code:
        sys.exit(code)
"""


@pytest.mark.exhaustive
def test_commands_need_no_posix(tmp_path: Path) -> None:
    """The modules and functions that Windows lacks are taken away; files may not be moved while they are open."""
    picture, model = str(tmp_path / "scene.png"), ["--model", "demo", "--device", "cpu"]
    commands = [
        ["demo-scene", picture, "--seed", "7"],
        ["chat", picture, *model, "-p", "How many objects are there?", "--json"],
        ["save", picture, *model, "-p", "How many objects are there?", "--out", str(tmp_path / "scene.safetensors")],
        ["eval", *model, "--data", "scenes:1", "--methods", "h2o", "--budgets", "20%", "--processes", "1"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX % commands],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"peak_device_bytes": 1073741824' in done.stdout
