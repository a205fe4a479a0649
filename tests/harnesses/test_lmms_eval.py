"""lmms-eval on a local task with drawn scenes: the whole budget answers as the stock model does, less is compressed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.harnesses.subject import Subject
from prefixkv.inputs.prompts import Prompt, Turn

pytest.importorskip("lmms_eval")

QUESTION = "How many objects are there?"
SEEDS = (31, 32, 33)
TASK = """
task: local_scenes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_messages: !function local_scenes.messages
doc_to_visual: !function local_scenes.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: 12}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
FUNCTIONS = """
from PIL import Image

def visual(doc):
    return [Image.open(doc["path"]).convert("RGB")]

def messages(doc, **more):
    content = [{"type": "image", "url": visual(doc)[0]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    documents = []
    for seed in SEEDS:
        path = tmp_path / f"{seed}.png"
        draw_scene(seed).image.save(path)
        documents.append({"path": str(path), "question": QUESTION, "answer": stock_answer(seed)})
    data = tmp_path / "documents.jsonl"
    data.write_text("\n".join(map(json.dumps, documents)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "local_scenes.yaml").write_text(TASK.format(data=data))
    (folder / "local_scenes.py").write_text(FUNCTIONS)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return folder


def stock_answer(seed: int) -> str:
    """What stock `generate` says."""
    loaded = prefixkv.load_model("demo", device="cpu")
    inputs = Prompt(loaded.processor, [Turn(QUESTION, (draw_scene(seed).image,))]).inputs
    model: Any = loaded.model
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return str(loaded.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def test_the_whole_budget_is_stock_and_less_is_compressed(tasks: Path, tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    for method, budget in (("full", "100%"), ("prefixkv", "20%"), ("h2o", "20%"), ("guided", "20%")):
        log = tmp_path / f"{method}.jsonl"
        options = f"pretrained=demo,budget={budget},method={method},device=cpu,log={log}"
        found = simple_evaluate(
            model="prefixkv", model_args=options, tasks=["local_scenes"], task_manager=manager, batch_size=2
        )
        score = found["results"]["local_scenes"]["exact_match,none"]
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(records) == len(SEEDS)
        assert all(record["is_compressed"] is (method != "full") for record in records), method
        if method == "full":
            # Targets are what stock generate says.
            assert score == 1.0


def test_answers_are_scored_behind_a_compressed_picture() -> None:
    subject = Subject("demo", "20%", "h2o", device="cpu", notify=lambda text: None)
    loaded = subject.loaded
    inputs = Prompt(loaded.processor, [Turn(QUESTION, (draw_scene(31).image,))]).inputs
    ids = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("1", "11")]
    together = subject.scores(inputs, ids)
    alone = [subject.scores(inputs, [each])[0] for each in ids]
    assert [score for score, _ in together] == pytest.approx([score for score, _ in alone], abs=1e-4)
    assert subject.summary()["compressed"] == subject.summary()["requests"] == 3
