"""The program as a user runs it: in a process of its own, or in this one, where no interpreter has to start."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from prefixkv_cli import output
from prefixkv_cli.app import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]

PROGRAM = [sys.executable, "-m", "prefixkv_cli"]
ENVIRONMENT = {
    **{
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    },
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "HF_HUB_OFFLINE": "1",
    "PROMPT_TOOLKIT_NO_CPR": "1",
    # Without a home of their own, tests would write to the log of whoever runs them.
    "PREFIXKV_LOG": "false",
    "TERM": "xterm-256color",
}


def environment() -> dict[str, str]:
    """The variables of the next run: `ENVIRONMENT`, and the home that a test may have set meanwhile."""
    return ENVIRONMENT | {name: os.environ[name] for name in ("PREFIXKV_HOME",) if name in os.environ}


def launched(*options: str) -> list[str]:
    """The command line that starts the program in processes of accelerate's launcher, which takes these options.

    The port is one that nothing listens on: the launcher's lower versions hand on 0 as it stands.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options, "--main_process_port", port]
    return [*launcher, "-m", "prefixkv_cli"]


def run_in_new_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own; keyword arguments are those of `subprocess.run`."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("env", environment())
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=400, **options)


def run_here(
    *arguments: str, input: str = "", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program in this process.

    Args:
        *arguments: of the command line.
        input: what stdin holds.
        cwd: working directory, if not this process's.
        env: all environment variables.
    """
    stdout, stderr = _Stream(), _Stream()
    streams = (_standard_input(input), redirect_stdout(stdout), redirect_stderr(stderr), _messages_on(stderr))
    with ExitStack() as stack:
        for context in (_variables(env or environment()), _folder(cwd), *streams):
            stack.enter_context(context)
        output.be_quiet(False)
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["prefixkv", *arguments], code, stdout.text(), stderr.text())


class _Stream(io.TextIOWrapper):
    """A standard stream that is no terminal and keeps what is written to it."""

    def __init__(self, content: str = "") -> None:
        super().__init__(io.BytesIO(content.encode()), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined]


@contextmanager
def _variables(env: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _folder(path: Path | None) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path or before)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _standard_input(content: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, _Stream(content)
    try:
        yield
    finally:
        sys.stdin = before


@contextmanager
def _messages_on(stderr: _Stream) -> Iterator[None]:
    """What Python's warnings and transformers' logger say goes where a process of its own would have it."""
    handlers = [
        handler
        for name in ("", "transformers", "huggingface_hub")
        for handler in logging.getLogger(name).handlers
        if type(handler) is logging.StreamHandler
    ]
    streams = [handler.setStream(stderr) for handler in handlers]
    show = warnings.showwarning
    warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: print(
        warnings.formatwarning(message, category, filename, lineno, line), file=stderr, end=""
    )
    try:
        yield
    finally:
        warnings.showwarning = show
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream or sys.stderr)
