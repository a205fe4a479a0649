"""What every type of model did that transformers lists, as a small random model: a list that is made by the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("tested_types.json")


@dataclass(frozen=True)
class TestedType:
    """One type.

    Attributes:
        pictures: whether transformers lists it as one of pictures and text.
        outcome: `runs`, `refused`, `stock fails` (transformers itself cannot do what is asked) or `fails`.
        reason: why it does not run; empty where it does.
    """

    __test__ = False

    pictures: bool
    outcome: str
    reason: str


def tested_types() -> tuple[str, dict[str, TestedType]]:
    """The version of transformers that was tested, and all types by its names."""
    content = json.loads(SOURCE.read_text(encoding="utf-8"))
    return content["transformers"], {name: TestedType(**found) for name, found in content["types"].items()}
