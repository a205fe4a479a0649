"""A server is two processes, of which neither outlives the other."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("uvicorn")

from tests.cli.program import run_here
from tests.server.running import Running, running, user
from tests.small_demo import write

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL"),
]
LOST = "the engine's process has ended with code -9"
LONG = {"messages": [user("Describe it.")], "temperature": 50.0, "seed": 6, "max_tokens": 3000}


def ask(server: Running, **options: Any) -> Any:
    body = json.dumps(LONG | options).encode()
    asked = urllib.request.Request(f"{server.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    return urllib.request.urlopen(asked, timeout=60)


def test_the_server_ends_where_its_engine_was_killed(tmp_path: Path) -> None:
    with running(tmp_path, "--own-process", code=1) as server:
        stream = ask(server, stream=True)
        for _ in range(8):
            stream.readline()
        server.engine().kill()
        events = [line[6:] for line in stream.read().decode().splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        error = json.loads(events[-2])["error"]
        assert (error["type"], error["code"]) == ("server_error", "engine_lost")
        assert LOST in error["message"]
        assert server.process.wait(30) == 1
        assert server.process.stderr is not None
        assert server.process.stderr.read().splitlines()[-1].endswith("start the server again")


def test_a_request_is_refused_where_the_engine_was_killed(tmp_path: Path) -> None:
    with running(tmp_path, "--own-process", code=1) as server:
        with ask(server, max_tokens=2) as answer:
            assert answer.status == 200
        # What is asked while nobody has noticed meets the same error as what is asked later.
        server.engine().kill()
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(server)
        assert refused.value.code == 503
        assert LOST in json.load(refused.value)["error"]["message"]
        assert server.process.wait(30) == 1


def test_the_engine_ends_where_the_server_was_killed(tmp_path: Path) -> None:
    with running(tmp_path, "--own-process", code=-signal.SIGKILL) as server:
        stream = ask(server, stream=True)
        stream.readline()
        engine = server.engine()
        os.kill(server.process.pid, signal.SIGKILL)
        assert psutil.wait_procs([engine], 10)[1] == []


@pytest.mark.parametrize("processes", ["--own-process", "--one-process"])
def test_weights_that_are_not_there_are_said_in_one_line(processes: str, tmp_path: Path) -> None:
    write(tmp_path / "small")
    (tmp_path / "small" / "model.safetensors").unlink()
    done = run_here("serve", "--model", str(tmp_path / "small"), "--port", "0", processes)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "model.safetensors" in done.stderr
