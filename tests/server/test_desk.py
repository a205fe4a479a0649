"""What a server does before the first question comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("starlette")

import prefixkv
from prefixkv.demo.scenes import draw_scene
from prefixkv.engine.stream import Stream
from prefixkv.errors import OptionError
from prefixkv.inputs.images import picture_facts
from prefixkv.models.frontend import Frontend
from prefixkv.policy.budget import Budget
from prefixkv.schemas.chat_request import ChatRequestSchema
from prefixkv.server.desk import Desk, Manner
from tests.server.running import user
from tests.small_demo import small_demo


def test_warming_up_answers_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, asked = small_demo(), list[Stream]()
    manner = Manner(Budget.parse("20%"), "h2o", "int4")
    with prefixkv.Engine(loaded, memory="16MiB") as engine:
        submit = engine.submit
        monkeypatch.setattr(
            engine, "submit", lambda *given, **named: asked.append(submit(*given, **named)) or asked[-1]
        )
        Desk(Frontend.of(loaded), engine, manner).warm_up()
        (stream,) = asked
        assert stream.is_done
        assert len(stream.tokens) in (1, 2)
        engine._worker.join()
        counts = engine.counts()
        assert (counts.running, counts.kept_caches, counts.reserved_bytes) == (0, 0, 0)


def test_a_server_begins_though_warming_up_fails() -> None:
    loaded = small_demo()
    with prefixkv.Engine(loaded, memory="16MiB") as engine:
        for budget, processor in (("1tok", loaded.processor), ("20%", None)):
            frontend = replace(Frontend.of(loaded), processor=processor)
            Desk(frontend, engine, Manner(Budget.parse(budget), "guided", "auto")).warm_up()


def test_who_asks_for_it_has_strange_pictures_refused_and_hears_of_all_pictures() -> None:
    loaded, scene, strange = small_demo(), draw_scene(3).image, Image.effect_noise((336, 336), 90).convert("RGB")

    def asked(picture: Image.Image, **more: bool) -> ChatRequestSchema:
        return ChatRequestSchema.model_validate({"messages": [user("How many?", picture)], "max_tokens": 1, **more})

    with prefixkv.Engine(loaded, memory="16MiB") as engine:
        desk = Desk(replace(Frontend.of(loaded), id="demo"), engine, Manner(Budget.parse("20%"), "h2o", "plain"))
        with pytest.raises(OptionError, match="is no drawn scene or document"):
            desk.ask(asked(strange, known_pictures_only=True), "", lambda stream: None)
        taken = desk.ask(asked(strange), "", lambda stream: None)
        assert (len(taken.notices), taken.pictures) == (1, None)
        known = desk.ask(asked(scene, known_pictures_only=True, picture_facts=True), "", lambda stream: None)
        assert (known.notices, known.pictures) == ([], [picture_facts(scene)])
