"""The JSON schemas of the pages are those of the classes, and say what the classes say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.test_documents import a_config, a_profile
from tools.file_schemas import FILES, file_schemas

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def test_schemas_are_current() -> None:
    """Run `make schemas` after a change of `prefixkv/schemas/`."""
    found = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in SCHEMAS.iterdir()}
    assert found == {name: json.loads(text) for name, text in file_schemas().items()}


def test_what_the_program_writes_has_the_fields_that_are_required() -> None:
    for name, content in (("config", a_config().as_dict()), ("profile", a_profile().as_dict())):
        schema = json.loads(file_schemas()[f"{name}.json"])
        assert set(schema["required"]) <= set(content)
        assert set(content) <= set(schema["properties"])
        FILES[name][1].model_validate(content)
