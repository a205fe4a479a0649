"""What holds for a conversation's model holds for each that is loaded in its place."""

from __future__ import annotations

from typing import Any

import pytest

from prefixkv.generation.sampling import Sampling
from prefixkv.profiles.guidance import find_look_ahead
from prefixkv_cli.dialogue.opening import Opening


@pytest.mark.parametrize("no_profile", [False, True])
def test_every_model_that_is_loaded_is_without_its_profile_where_that_was_said(no_profile: bool) -> None:
    options: dict[str, Any] = {
        "given": set[str](),
        "model": "demo",
        "budget": "20%",
        "method": "guided",
        "sampling": Sampling(),
    }
    opening = Opening(**options, device="cpu", no_profile=no_profile)
    loaded = opening.load("demo")
    said: list[str] = []
    found = find_look_ahead(loaded.model, loaded.identity, "guided", said.append)
    assert found is not None
    assert found.is_recorded != no_profile
