"""Mutated JSON files of every kind that the program reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from prefixkv.batch.lines import read_lines
from prefixkv.batch.results import ResultFile
from prefixkv.evaluation.cells import Cell
from prefixkv.evaluation.data import read_questions
from prefixkv.evaluation.records import RecordFolder
from prefixkv.models.facts import model_facts
from prefixkv.profiles.calibration import data_samples
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile
from tests.fuzz.mutation import changed, written
from tests.test_documents import MODEL, a_config, a_profile

SETTINGS = {"model": {"id": "demo"}, "metrics": ["ppl"], "threads": 1}
CELL = Cell("h2o", "20%")
FIGURES = {
    **{"kept_bytes": 2.0, "full_bytes": 10.0, "seen_tokens": 5.0, "evicts": True, "tokens": 3, "loss": 0.5},
    **{"kl_tokens": 3, "kl": 0.1, "answer": "a", "rouge_l": 0.5, "exact": True, "relaxed": False},
}
LINE = {"prompt": "a", "image": ["a.png"], "id": 3, "system": "s", "stop": ["."], "temperature": 0.5, "seed": 1}
DATA = [
    {"image": None, "question": "a", "answer": "b"},
    {"conversations": [{"from": "human", "value": "<image>\na"}, {"from": "gpt", "value": "b"}, {"value": "c"}]},
]
CONFIGURATION = {
    **{"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"hidden_size": 64, "head_dim": 16, "max_position_embeddings": 512, "vocab_size": 100, "dtype": "float32"},
    **{
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "text_config": {"model_type": "llama"},
        "layer_types": [],
    },
}


def mutated_files(folder: Path, random: Random) -> Iterator[Callable[[], Any]]:
    """Cases without end: a file is written, and then read as the program reads it."""
    readers = [
        (a_config().as_dict(), "config.json", PrefixConfig.load),
        (a_profile().as_dict(), "profile.json", LayerProfile.load),
        ([0.5, 0.25, 0.75], "release.json", lambda path: PrefixConfig.from_release(path, MODEL, "r", 100)),
        (DATA, "data.json", lambda path: read_questions(path, None, None, random.random() < 0.5)),
        (DATA, "samples.json", lambda path: data_samples(path, 10)),
    ]
    geometries = [CONFIGURATION, {"model_type": "llava", "text_config": CONFIGURATION, "vision_config": {}}]
    while True:
        for content, name, read in readers:
            (folder / name).write_bytes(written(changed(content, random), random))
            yield lambda read=read, path=folder / name: read(path)
        yield _model_folder(folder / "model", random.choice(geometries), random)
        yield _evaluation(folder / "evaluation", random)
        yield _lines(folder / "lines.jsonl", random)
        yield _answers(folder / "answers.jsonl", random)


def _model_folder(folder: Path, content: Any, random: Random) -> Callable[[], Any]:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(written(changed(content, random), random))
    return lambda: model_facts(str(folder))


def _evaluation(folder: Path, random: Random) -> Callable[[], Any]:
    folder.mkdir(exist_ok=True)
    head: Any = {"format": "prefixkv-evaluation", "version": 1, "settings": SETTINGS}
    record: Any = {"sample": 0, "method": "h2o", "budget": "20%", "recipe": CELL.recipe(None)} | FIGURES
    if random.random() < 0.3:
        head = changed(head, random)
    else:
        record = changed(record, random)
    (folder / "head.json").write_bytes(written(head, random) if random.random() < 0.3 else json.dumps(head).encode())
    lines = [written(record, random) for _ in range(2)]
    (folder / "records-0.jsonl").write_bytes(b"\n".join(lines))
    return lambda: RecordFolder(folder, SETTINGS).read()


def _lines(path: Path, random: Random) -> Callable[[], Any]:
    path.write_bytes(b"\n".join(written(changed(LINE, random), random) for _ in range(2)))

    def read() -> None:
        for line in read_lines(path):
            assert line.error is None or ("\n" not in line.error and len(line.error) < 1000), line.error

    return read


def _answers(path: Path, random: Random) -> Callable[[], Any]:
    asked = path.with_name("asked.jsonl")
    asked.write_text(json.dumps(LINE) + "\n")
    (line,) = read_lines(asked)
    record = {"line": 1, "input": line.digest, "settings": "s", "answer": "a", "prompt_tokens": 3, "new_tokens": 1}
    mark = {"bytes": 3, "modified": 4, "sha256": "0" * 64}
    record |= {"finish_reason": "stop", "pictures": [mark]}
    path.write_bytes(written(changed(record, random), random) + b"\n")
    return lambda: ResultFile(path, "s", folder=path.parent).gather([line], retry=True)
