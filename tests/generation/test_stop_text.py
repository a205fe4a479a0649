"""An answer ends before a stop text, however its tokens fall, and alike on every path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefixkv
from prefixkv.batch.lines import read_lines
from prefixkv.batch.results import ResultFile
from prefixkv.batch.run import Batch
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.errors import OptionError
from prefixkv.generation.answer import AnswerWriter
from prefixkv.generation.sampling import Sampling
from prefixkv.generation.stop_text import before_stop, held_back
from prefixkv.policy.budget import Budget
from tests import tiny


class Letters:
    """A tokenizer whose tokens are letters."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, tokens))


@given(
    said=st.text("ab. \n", min_size=1, max_size=30), stops=st.lists(st.text("ab ", min_size=1, max_size=2), max_size=2)
)
def test_all_pieces_together_are_the_answer_s_text(said: str, stops: list[str]) -> None:
    writer = AnswerWriter(Letters(), (), stops)
    pieces = []
    for token in map(ord, said):
        pieces.append(writer.push(token))
        assert "".join(pieces) == writer.text
        if writer.has_stopped:
            break
    pieces.append(writer.end())
    assert "".join(pieces) == writer.answer(0).text == before_stop(said, stops).strip()


@given(said=st.text("ab.", min_size=1, max_size=30), stops=st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_what_is_written_never_holds_a_part_of_a_stop(said: str, stops: list[str]) -> None:
    writer = AnswerWriter(Letters(), (), stops)
    pieces = []
    for token in map(ord, said):
        pieces.append(writer.push(token))
        if writer.has_stopped:
            break
    pieces.append(writer.end())
    first = min((said.index(stop) + len(stop) for stop in stops if stop in said), default=len(said))
    assert writer.tokens == first
    assert "".join(pieces) == writer.text == before_stop(said[:first], stops)


def test_no_more_is_held_back_than_may_begin_a_stop() -> None:
    assert [held_back(text, ["abc", "b"]) for text in ("", "x", "xa", "xab", "xabx")] == [0, 0, 1, 2, 0]


def test_chat_engine_and_batch_end_alike(tmp_path: Path) -> None:
    demo, image = prefixkv.load_model("demo", device="cpu"), draw_scene(31).image
    image.save(tmp_path / "a.png")
    usual = "".join(Conversation(demo, "100%", sampling=Sampling(10)).ask("Describe the image.", image)).strip()
    stop = usual[6:9]
    expected = before_stop(usual, [stop]).strip()
    assert expected
    assert expected != usual
    conversation = Conversation(demo, "100%", sampling=Sampling(10, stop=(stop, "never said")))
    assert "".join(conversation.ask("Describe the image.", image)).strip() == expected
    assert conversation.last_answer is not None
    assert (conversation.last_answer.text, conversation.last_answer.finish_reason) == (expected, "stop")
    asked = {"image": "a.png", "prompt": "Describe the image."}
    lines = [asked | {"stop": stop}, asked | {"stop": [stop]}, asked, asked | {"stop": "never said"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for default, answers in (((stop,), [expected] * 3 + [usual]), ((), [expected] * 2 + [usual] * 2)):
        parsed = read_lines(tmp_path / "q.jsonl")
        batch = Batch(parsed, tmp_path, Budget.parse("100%"), "prefixkv", 10, stop=default)
        results = ResultFile(tmp_path / f"{len(default)}.jsonl", batch.settings(demo))
        batch.run(demo, results, {})
        records = results.gather(parsed)
        assert [records[line.number]["answer"] for line in parsed] == answers


def test_a_stop_that_cannot_be_watched_is_refused() -> None:
    with pytest.raises(OptionError, match="empty text"):
        Sampling(stop=("",))
    with prefixkv.Engine(tiny.llama()) as engine, pytest.raises(OptionError, match="tokenizer"):
        engine.submit({"input_ids": tiny.text(9)}, sampling=Sampling(stop=(".",)))
