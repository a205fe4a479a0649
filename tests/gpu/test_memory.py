"""A GPU's memory that does not suffice: one clear line and exit code 4, and what comes next works."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import DeviceMemoryError
from prefixkv.models.loading import LoadedModel
from tests.gpu.conftest import SEED, Program
from tests.gpu.device import DEVICE

pytestmark = pytest.mark.gpu

MIB = 2**20
COUNT = "How many objects are there?"
DEMO = ("--model", "demo", "--device", DEVICE, "--dtype", "float32")


@contextmanager
def only(more_bytes: int) -> Iterator[None]:
    """Let this process allocate no more than so many bytes beside what it has."""
    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_bytes) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        gc.collect()
        torch.cuda.empty_cache()


def test_chat_at_every_limit_answers_or_ends_in_one_line(program: Program, scene: Path) -> None:
    asked = ("chat", str(scene), "-p", COUNT, *DEMO, "--budget", "20%")
    whole = program(*asked).out
    ended = {}
    for mebibytes in (8, 40, 72, 80, 88, 96, 112, 144, 208, 1024):
        with only(mebibytes * MIB):
            ended[mebibytes] = attempt(program, *asked)
    codes = [code for code, _, _ in ended.values()]
    assert codes == sorted(codes, reverse=True), ended
    assert set(codes) == {0, 4}
    for code, out, err in ended.values():
        if code == 0:
            assert out == whole
        else:
            assert err.count("\n") == 1
            assert err.startswith("error: ")
            assert "do not fit" in err or "out of memory: give a smaller" in err
    assert "the weights of model 'demo' do not fit" in ended[8][2]
    assert program(*asked).out == whole


def attempt(program: Program, *arguments: str) -> tuple[int, str, str]:
    """A run that may end either way."""
    try:
        done = program(*arguments)
    except AssertionError:
        done = program(*arguments, code=4)
    return done.code, done.out, done.err


def test_a_conversation_goes_on_without_the_question_that_did_not_fit(demo: Callable[[str], LoadedModel]) -> None:
    talk, expected = (Conversation(demo("float32"), "20%") for _ in range(2))
    first, second = draw_scene(SEED).image, draw_scene(SEED + 1).image
    for each in (talk, expected):
        "".join(each.ask(COUNT, [first]))
    with only(0), pytest.raises(DeviceMemoryError, match="ran out of memory: give a smaller"):
        "".join(talk.ask(COUNT, [second] * 6))
    assert len(talk.history) == 1
    assert "".join(talk.ask(COUNT, [second])) == "".join(expected.ask(COUNT, [second]))


def test_batch_answers_fewer_rows_at_once(program: Program, scene: Path, tmp_path: Path) -> None:
    """With room for the model and a few rows, all lines are answered, and none differs from a run with room for all."""
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"image": str(scene), "prompt": COUNT}) + "\n", encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8") * 16, encoding="utf-8")
    answers = []
    for name, mebibytes in (("whole", 4096), ("tight", 320)):
        with only(mebibytes * MIB):
            program("batch", str(file), "--out", str(tmp_path / name), *DEMO, "--rows", "16", "--max-new-tokens", "8")
        lines = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        answers.append([json.loads(line)["answer"] for line in lines])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 16
