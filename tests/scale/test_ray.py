"""A real Ray cluster of two nodes on this machine: answers are those of one process, also where a node is killed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefixkv.demo.questions import question_set
from tests.cli.program import run_here

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'prefixkv[ray]')")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]
"""Ray calls itself by old names."""
LINES = 400


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ray")
    with (folder / "questions.jsonl").open("w") as file:
        for number, (scene, question) in enumerate(question_set(LINES // 4, seed=909)):
            scene.image.save(folder / f"{number}.png")
            for again in range(4):
                line = {"id": f"{number}.{again}", "image": f"{number}.png", "prompt": question.question}
                file.write(json.dumps(line | {"max_new_tokens": 2 + again}) + "\n")
    return folder / "questions.jsonl"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that works not, and two nodes that do."""
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_node_that_is_killed_takes_no_line_along(questions: Path, cluster: Any, tmp_path: Path) -> None:
    words = ["batch", str(questions), "--model", "demo", "--budget", "20%", "--device", "cpu"]
    alone, together = tmp_path / "alone.jsonl", tmp_path / "together.jsonl"
    assert run_here(*words, "--out", str(alone)).returncode == 0
    killed = threading.Event()

    def kill() -> None:
        while not together.exists() or len(together.read_bytes().splitlines()) < LINES // 8:
            time.sleep(0.2)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)
        killed.set()

    threading.Thread(target=kill, daemon=True).start()
    ray.init(cluster.address, log_to_driver=False)
    done = run_here(*words, "--out", str(together), "--ray", "auto")
    assert (done.returncode, killed.is_set()) == (0, True), done.stderr
    assert len(answers(together)) == LINES
    assert together.read_bytes() == alone.read_bytes()
    again = run_here(*words, "--out", str(together), "--ray", "auto")
    assert again.returncode == 0
    assert together.read_bytes() == alone.read_bytes()


def test_rows_of_a_dataset_of_ones_own_are_answered(questions: Path, cluster: Any) -> None:
    from prefixkv.batch.cluster import AnswerLines
    from prefixkv.batch.run import Batch
    from prefixkv.policy.budget import Budget

    ray.init(cluster.address, log_to_driver=False)
    rows = [json.loads(line) for line in questions.read_text().splitlines()[:8]]
    for row in rows:
        row["image"] = str(questions.parent / row["image"])
    asked = Batch((), Path(), Budget.parse("20%"), "guided")
    dataset = ray.data.from_items([{**row, "mine": number} for number, row in enumerate(rows)])
    found = dataset.map_batches(AnswerLines, fn_constructor_args=("demo", asked), concurrency=1, num_cpus=1).take_all()
    assert [row["mine"] for row in sorted(found, key=lambda row: row["mine"])] == list(range(8))
    assert all(row["answer"] and row["error"] is None for row in found)


def test_tables_and_addresses_are_read_and_written(questions: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [json.loads(line) for line in questions.read_text().splitlines()[:6]]
    for row in rows:
        row["image"] = str(questions.parent / row["image"])
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "questions.parquet")
    words = ["--model", "demo", "--device", "cpu"]
    for given, out in (
        (str(tmp_path / "questions.parquet"), str(tmp_path / "answers.parquet")),
        (f"file://{tmp_path}/questions.parquet", f"file://{tmp_path}/answers.jsonl"),
    ):
        done = run_here("batch", given, *words, "--out", out)
        assert done.returncode == 0, done.stderr
    table = parquet.read_table(tmp_path / "answers.parquet").to_pylist()
    lines = answers(tmp_path / "answers.jsonl")
    assert [row["answer"] for row in table] == [row["answer"] for row in lines]
    assert [json.loads(row["id"]) for row in table] == [row["id"] for row in lines] == [row["id"] for row in rows]
    wrong = run_here("batch", f"file://{tmp_path}/missing.jsonl", *words, "--out", str(tmp_path / "none.jsonl"))
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
