"""lm-evaluation-harness on a local task: the whole budget scores as the stock model does, less is compressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import prefixkv
from tests.cli.program import run_here

lm_eval = pytest.importorskip("lm_eval")

QUESTION = "How many objects are there? Which object is in row 3, column 3? Describe the image. " * 4
CHOICES = ["1", "2", "a red circle"]
DOCUMENTS = [
    {"question": f"{QUESTION}How many {colour} objects are there?", "choices": CHOICES, "gold": number}
    for number, colour in enumerate(("red", "green", "blue"))
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
metadata: {{version: 1}}
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, DOCUMENTS)))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    choice = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}]'
    said = "generation_kwargs: {until: ['.'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]"
    for name, kind, target, more in (
        ("choose", "multiple_choice", "gold", choice),
        ("say", "generate_until", '"{{choices[gold]}}"', said),
    ):
        text = TASK.format(name=f"local_{name}", data=data, kind=kind, target=target, more=more)
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def stock_scores(documents: list[dict[str, Any]]) -> list[list[float]]:
    """The logarithms of each choice's probability by one uncompressed pass."""
    loaded = prefixkv.load_model("demo", device="cpu")
    found = []
    for document in documents:
        scores = []
        for choice in document["choices"]:
            context = loaded.tokenizer(document["question"].rstrip())["input_ids"]
            whole = loaded.tokenizer(document["question"].rstrip() + " " + choice)["input_ids"]
            with torch.no_grad():
                logits = loaded.model(input_ids=torch.tensor([whole])).logits[0].float().log_softmax(-1)
            places = range(len(context), len(whole))
            scores.append(float(sum(logits[place - 1, whole[place]] for place in places)))
        found.append(scores)
    return found


def evaluated(tasks: Path, out: Path, *words: str) -> tuple[dict[str, Any], list[Any], list[dict[str, Any]]]:
    """Results, samples of `local_choose`, and the log of bytes, by the command."""
    harness = ("--tasks", "local_choose,local_say", "--include_path", str(tasks), "--output_path", str(out))
    log = out.with_suffix(".jsonl")
    done = run_here("lm-eval", *words, "--device", "cpu", "--kept-log", str(log), "--", *harness, "--log_samples")
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    samples = [json.loads(line) for line in next(out.rglob("samples_local_choose*.jsonl")).read_text().splitlines()]
    return results, samples, [json.loads(line) for line in log.read_text().splitlines()]


def test_the_whole_budget_is_stock_and_less_is_compressed(tasks: Path, tmp_path: Path) -> None:
    expected = stock_scores(DOCUMENTS)
    results, samples, kept = evaluated(tasks, tmp_path / "whole", "--budget", "100%", "--method", "full")
    found = {sample["doc_id"]: [float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples}
    for number, scores in enumerate(expected):
        assert found[number] == pytest.approx(scores, abs=1e-3)
    # The right choice of each document is that of its own number.
    right = [scores.index(max(scores)) == number for number, scores in enumerate(expected)]
    assert results["local_choose"]["acc,none"] == pytest.approx(sum(right) / 3)
    assert not any(record["is_compressed"] for record in kept)
    assert {record["request"] for record in kept} == {"score", "generate"}
    for method in ("prefixkv", "h2o", "snapkv"):
        results, _, kept = evaluated(tasks, tmp_path / method, "--budget", "20%", "--method", method)
        assert set(results) == {"local_choose", "local_say"}
        assert len(kept) == 6
        assert all(record["is_compressed"] for record in kept), method
        assert sum(record["kept_bytes"] for record in kept) < 0.3 * sum(record["full_bytes"] for record in kept)
