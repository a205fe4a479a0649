"""`batch --processes`: the answers of one process, also where one of several dies; what cannot be is refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefixkv.batch import processes
from prefixkv.batch.lines import Line
from prefixkv.batch.processes import Processes
from prefixkv.batch.run import Batch
from prefixkv.children import Children
from prefixkv.demo.questions import question_set
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.models.placement import Placement
from prefixkv.policy.budget import Budget
from prefixkv.profiles.loading import Loading
from tests.cli.program import run_here


def questions(folder: Path, count: int) -> Path:
    """Lines of the demo, two of each picture, and one that cannot be answered."""
    with (folder / "questions.jsonl").open("w") as file:
        for number, (scene, question) in enumerate(question_set(count // 2, seed=505)):
            scene.image.save(folder / f"{number}.png")
            for again in range(2):
                line = {"id": f"{number}.{again}", "image": f"{number}.png", "prompt": question.question}
                file.write(json.dumps(line | {"max_new_tokens": 2 + again}) + "\n")
        file.write(json.dumps({"id": "bad", "image": "missing.png", "prompt": "What?"}) + "\n")
    return folder / "questions.jsonl"


@pytest.mark.exhaustive
def test_two_processes_give_the_bytes_of_one_and_one_that_is_killed_takes_no_line_along(tmp_path: Path) -> None:
    words = ["batch", str(questions(tmp_path, 16)), "--model", "demo", "--budget", "20%", "--device", "cpu"]
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert run_here(*words, "--out", str(alone)).returncode == 1
    killed = list[int]()

    def kill() -> None:
        while not together.exists() or len(together.read_bytes().splitlines()) < 3:
            time.sleep(0.02)
        # Beside the two there is the process that Python's own resources are tracked by.
        workers = [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]
        workers[0].kill()
        killed.append(workers[0].pid)

    threading.Thread(target=kill, daemon=True).start()
    done = run_here(*words, "--out", str(together), "--processes", "2", "--json")
    assert (done.returncode, len(killed)) == (1, 1), done.stderr
    assert done.stderr.count("a process has ended with code -9") == 1
    assert together.read_bytes() == alone.read_bytes()
    speed = json.loads(done.stdout)["speed"]
    assert speed["tokens"] >= sum(each["tokens"] for each in speed["processes"]) > 0
    assert len(speed["processes"]) == 2
    assert speed["startup_seconds"] == max(each["startup_seconds"] for each in speed["processes"]) > 0
    assert run_here(*words, "--out", str(together), "--processes", "2").returncode == 1
    assert together.read_bytes() == alone.read_bytes()


def prepared(count: int = 2, **loading: Any) -> Processes:
    children = Children(count, "prefixkv.batch.dealt_lines", "answer_dealt")
    return Processes(children, Loading("demo", **loading), Batch((), Path(), Budget.parse("20%"), "h2o"))


def test_the_share_of_a_process_falls_as_lines_are_answered_and_pictures_stay_together() -> None:
    several = prepared(2, device="cpu")
    first, second = several._answering
    several._left.extend(Line(number, str(number)) for number in range(1, 31))
    assert [line.number for line in several._block(first)] == list(range(1, 9))
    assert [line.number for line in several._block(first)] == list(range(9, 16))
    # Half of all that is left to answer is its share.
    assert several._block(first) == []
    assert len(several._block(second)) == 8
    several._left.clear()
    several._left.extend(Line(number, str(number), sources=(f"{number // 10}.png",)) for number in range(35, 100))
    # Five lines of one picture and all ten of the next.
    assert [line.number for line in several._block(second)] == list(range(35, 50))
    several._left.clear()
    second.child.ours.close()


def test_more_processes_than_cards_and_a_divided_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with pytest.raises(OptionError, match="--device-map auto divides it"):
        prepared(placement=Placement("auto"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes._places(2, Loading("demo")) == ["cuda:0", "cuda:1"]
    with pytest.raises(OptionError, match="--processes 3 wants so many CUDA devices, and torch sees 2"):
        prepared(3)
    with pytest.raises(OptionError, match="--device cuda:1 is one"):
        prepared(2, device="cuda:1")


@pytest.mark.parametrize("more", [["--ray", "local"], ["--trace", "trace.json"]])
def test_what_does_not_go_with_processes_is_refused_in_one_line(more: list[str], tmp_path: Path) -> None:
    words = ["batch", str(questions(tmp_path, 2)), "--out", str(tmp_path / "a.jsonl"), "--processes", "2", *more]
    done = run_here(*words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--processes" in done.stderr or "processes 2" in done.stderr


def test_where_all_have_ended_a_line_says_so() -> None:
    several = prepared(2, device="cpu")
    for one in several._answering:
        one.has_ended = True
    with pytest.raises(PrefixKVError, match="fewer --processes"):
        several._heard()
