"""What every type of model did that transformers lists, as a small random model: a list that is made by the tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("type_results.json")


@dataclass(frozen=True)
class TypeResult:
    """One type.

    Attributes:
        pictures: whether transformers lists it as one of pictures and text.
        outcome: `runs`, `refused`, `stock fails` (transformers itself cannot do what is asked) or `fails`.
        reason: why it does not run; empty where it does.
    """

    pictures: bool
    outcome: str
    reason: str


def type_results() -> tuple[str, dict[str, TypeResult]]:
    """The version of transformers that was tested, and all types by its names."""
    content = json.loads(SOURCE.read_text(encoding="utf-8"))
    return content["transformers"], {name: TypeResult(**found) for name, found in content["types"].items()}
