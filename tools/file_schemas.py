"""JSON schemas of the files that the program reads and writes, and of what its commands print with `--json`.

`python -m tools.file_schemas docs/schemas` writes them; a test says whether they are current.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from pydantic import TypeAdapter

from prefixkv.schemas.batch import BatchAnswerSchema
from prefixkv.schemas.config import ConfigSchema
from prefixkv.schemas.context import ContextSchema
from prefixkv.schemas.evaluation import EvaluationSchema, RecordSchema
from prefixkv.schemas.field import Forgotten, Schema
from prefixkv.schemas.line import BatchLineSchema
from prefixkv.schemas.profile import ProfileSchema
from prefixkv.schemas.server import ServerSchema
from prefixkv_cli.json_outputs.table import OUTPUTS
from prefixkv_cli.settings.schema import SettingsSchema

FILES: dict[str, tuple[str, type[Schema]]] = {
    "profile": ("A layer profile.", ProfileSchema),
    "config": ("A configuration.", ConfigSchema),
    "context": ("The head of a saved context, in the metadata of its safetensors file.", ContextSchema),
    "evaluation": ("head.json of an evaluation's folder.", EvaluationSchema),
    "evaluation-record": ("A line of records-N.jsonl in an evaluation's folder.", RecordSchema),
    "batch-line": ("A line of a batch's questions.", BatchLineSchema),
    "batch-answer": ("A line of a batch's answers.", BatchAnswerSchema),
    "settings": ("The settings file, in TOML.", SettingsSchema),
    "server": ("server.json in the home folder, by which commands find the server that runs.", ServerSchema),
}
PLAIN = {"CacheUsage", "LayerUsage", "LoggedAnswer"}
"""Dataclasses of the program in its outputs."""
RELEASE = "The list of forgotten fractions of the paper's release, one a layer."
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def file_schemas() -> dict[str, str]:
    """The text of every schema by the name of its file."""
    contents = {name: schema.model_json_schema() | {"description": said} for name, (said, schema) in FILES.items()}
    contents |= {
        name: output.model_json_schema(mode="serialization") | {"description": inspect.cleandoc(output.__doc__ or "")}
        for name, output in OUTPUTS.items()
    }
    for name in OUTPUTS:
        for plain in PLAIN & contents[name].get("$defs", {}).keys():
            # Versions of pydantic differ in what they say of them beside their fields.
            for said in ("description", "additionalProperties"):
                contents[name]["$defs"][plain].pop(said, None)
    contents["release"] = TypeAdapter(Forgotten).json_schema() | {"description": RELEASE}
    return {
        f"{name}.json": json.dumps({"$schema": DIALECT} | content, indent=1, sort_keys=True) + "\n"
        for name, content in contents.items()
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in file_schemas().items():
        (folder / file).write_text(text, encoding="utf-8")
