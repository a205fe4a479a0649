"""How processes that a launcher has started leave each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import PartialState

from prefixkv.errors import PrefixKVError
from prefixkv.workers import Launch, cards_of, division_of, seconds_since_start


class Group:
    """Stands for the others of a launch."""

    process_index, num_processes, local_process_index = 0, 2, 0
    left = 0

    def destroy_process_group(self) -> None:
        self.left += 1


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Group:
    """What a launcher's environment leads to; accelerate's own state has the method that the stand-in has."""
    assert callable(PartialState.destroy_process_group)
    found = Group()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", lambda **options: found)
    return found


def test_a_launch_leaves_its_group_at_the_end(group: Group) -> None:
    with Launch("cpu") as launch:
        assert (launch.number, launch.count, launch.device) == (0, 2, "cpu")
        assert group.left == 0
    assert group.left == 1


def test_who_fails_waits_for_nobody(group: Group) -> None:
    with pytest.raises(KeyError), Launch("cpu"):
        raise KeyError
    assert group.left == 0


def test_waiting_names_no_gpu(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes may work on the CPU of a machine with one GPU."""
    met: list[Any] = []
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: met.append(own) or own)
    Launch("cpu").wait()
    assert met == [[]]


def test_more_processes_than_gpus_are_refused(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(PrefixKVError, match="2 processes were started, and torch sees 1 CUDA devices: start no more"):
        Launch("auto")
    assert Launch("cpu").count == 2
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert Launch("auto").device == "cuda:0"


def test_a_process_that_nobody_launched_has_no_group() -> None:
    with Launch("cpu") as launch:
        assert (launch.number, launch.count, launch.is_main) == (0, 1, True)


@pytest.mark.parametrize(
    ("device", "named", "cards"),
    [
        ("cuda", "auto", ["cuda:0", "cuda:1"]),
        ("cuda:0", "cuda", ["cuda:0", "cuda:1"]),
        ("cuda:1", "cuda:1", ["cuda:1"]),
        ("cpu", "auto", []),
    ],
)
def test_each_process_has_a_card_unless_one_was_named(
    device: str, named: str, cards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert cards_of(torch.device(device), named) == cards


def test_a_process_knows_how_long_it_is_there() -> None:
    assert 0 < seconds_since_start() < 10**5


def test_beside_a_gpu_the_host_works_with_one_thread() -> None:
    assert division_of(torch.nn.Linear(1, 1, device="meta")) == (1, 1)
