"""OpenAI's own client against a real server: answers are those of a conversation, errors are what the client knows."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import prefixkv
from prefixkv.chat.conversation import Conversation
from prefixkv.demo.scenes import draw_scene
from prefixkv.generation.sampling import Sampling
from prefixkv.models.loading import LoadedModel
from tests.server.running import Running, data_address, running, user

openai = pytest.importorskip("openai")
http = pytest.importorskip("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
"""What the client speaks HTTP by."""

QUESTIONS = ("Describe the image.", "How many objects are there?", "How many red objects are there?")
KEYS = ("first-key-of-the-file", "second-key-of-the-file")
SCENE = draw_scene(15).image
"""Of three objects: its description is short."""
LONG = {"temperature": 50.0, "seed": 6, "max_tokens": 5000}
"""What makes an answer of more than 2,000 tokens."""


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return prefixkv.load_model("demo", device="cpu")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    keys = home / "keys.txt"
    keys.write_text("# two users\n" + "\n".join(KEYS) + "\n")
    with running(
        home, "--api-key-file", str(keys), "--memory", "64MiB", "--queue", "6", "--rows", "4", key=KEYS[0]
    ) as it:
        yield it


def client(server: Running, key: str = KEYS[0]) -> Any:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120)


def ask(client: Any, messages: list[dict[str, Any]], **options: Any) -> Any:
    return client.chat.completions.create(model="demo", messages=messages, **options)


def said_by_chat(demo: LoadedModel, questions: Any, picture: Image.Image, **options: Any) -> list[str]:
    sampling = Sampling(options.pop("max_new_tokens", 512), stop=options.pop("stop", ()))
    chat = Conversation(demo, sampling=sampling, **options)
    chat.attach(picture)
    return ["".join(chat.ask(question)) for question in questions]


def test_three_turns_with_a_picture_are_those_of_chat(server: Running, demo: LoadedModel) -> None:
    messages: list[dict[str, Any]] = []
    answers, cached = [], []
    for number, question in enumerate(QUESTIONS):
        messages.append(user(question, *([] if number else [SCENE])))
        found = ask(client(server), messages)
        answers.append(found.choices[0].message.content)
        cached.append(found.usage.prompt_tokens_details.cached_tokens)
        messages.append({"role": "assistant", "content": answers[-1]})
        assert found.choices[0].finish_reason == "stop"
        assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
        assert 0.1 < found.prefixkv["kv"]["bytes_fraction"] < 0.3
    assert answers == said_by_chat(demo, QUESTIONS, SCENE)
    assert cached[0] == 0 < cached[1] < cached[2]
    # The same conversation with another key begins from its beginning, and says the same of its first turn.
    other = ask(client(server, KEYS[1]), messages[:3])
    assert other.usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.exhaustive
def test_pieces_of_a_stream_are_the_answer(server: Running, demo: LoadedModel) -> None:
    chunks = list(ask(client(server), [user(QUESTIONS[0], SCENE)], stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == said_by_chat(demo, QUESTIONS[:1], SCENE)[0]
    assert sum(map(bool, pieces)) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens > 5


def test_errors_are_those_that_the_client_knows(server: Running) -> None:
    question = [user(QUESTIONS[1], SCENE)]
    with pytest.raises(openai.AuthenticationError, match="API key"):
        ask(client(server, "no-such-key"), question)
    for message, options, says in (
        ([user("What?", "data:image/png;base64,bm8gcGljdHVyZQ==")], {}, "no picture that can be read"),
        ([user("What?", "data:image/png;base64,?")], {}, "base64"),
        ([user("What?", "file:///etc/passwd")], {}, "no data: address"),
        ([user("What?", "/etc/passwd")], {}, "no data: address"),
        ([user("What?", "http://127.0.0.1/picture.png")], {}, "--allow-addresses"),
        ([{"role": "assistant", "content": "so"}], {}, "answer without a question"),
        ([*question, {"role": "assistant", "content": "3"}], {}, "end with a user message"),
        ([*question, {"role": "system", "content": "so"}], {}, "put it first"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "audio"),
        ([{"role": "user"}], {}, "content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_address(SCENE)}}]}],
            {},
            "no text",
        ),
        (question, {"temperature": -1}, "temperature"),
        (question, {"max_tokens": 0}, "max_tokens"),
        (question, {"n": 2}, "n is not supported"),
        (question, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        (question, {"response_format": {"type": "json_object"}}, "response_format is not supported"),
        (question, {"frequency_penalty": 1.0}, "frequency_penalty is not supported"),
        (question, {"top_logprobs": 3}, "give logprobs true"),
        (question, {"extra_body": {"budget": "ten"}}, "budget"),
        (question, {"extra_body": {"method": "none"}}, "method"),
    ):
        with pytest.raises(openai.BadRequestError, match=says) as refused:
            ask(client(server), message, **options)
        assert refused.value.body["type"] == "invalid_request_error"
        assert "\n" not in refused.value.body["message"]
    with pytest.raises(openai.NotFoundError, match="ask for demo"):
        client(server).chat.completions.create(model="gpt-4o", messages=question)
    large = Image.new("1", (15_000, 7_000))
    for too_large in ([user("What?", large)], [user("What?", "data:image/png;base64," + "A" * 2**26)]):
        with pytest.raises(openai.APIStatusError) as refused:
            ask(client(server), too_large)
        assert refused.value.status_code == 413
    with pytest.raises(openai.APIStatusError, match="2KiB") as refused:
        ask(client(server), question, extra_body={"budget": "2KiB"})
    assert refused.value.status_code == 413
    with pytest.raises(openai.BadRequestError, match=r"the model reads 4,096"):
        ask(client(server), [user("so " * 5000, SCENE)])


@pytest.mark.exhaustive
def test_stop_logprobs_seed_and_our_own_fields(server: Running, demo: LoadedModel) -> None:
    usual = said_by_chat(demo, QUESTIONS[:1], SCENE)[0]
    stop = usual.split()[4]
    found = ask(client(server), [user(QUESTIONS[0], SCENE)], stop=[stop], logprobs=True, top_logprobs=2)
    choice = found.choices[0]
    assert (
        choice.message.content
        == usual[: usual.index(stop)].strip()
        == said_by_chat(demo, QUESTIONS[:1], SCENE, stop=(stop,))[0]
    )
    assert choice.finish_reason == "stop"
    told = choice.logprobs.content
    assert "".join(token.token for token in told).strip().startswith(choice.message.content)
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in told)
    assert all(math.exp(token.top_logprobs[1].logprob) <= math.exp(token.logprob) for token in told)
    drawn = [
        ask(client(server), [user(QUESTIONS[0], SCENE)], temperature=3.0, seed=seed, max_completion_tokens=12)
        for seed in (7, 7, 8)
    ]
    texts = [each.choices[0].message.content for each in drawn]
    assert texts[0] == texts[1] != texts[2]
    short = ask(client(server), [user(QUESTIONS[0], SCENE)], max_completion_tokens=12)
    assert short.choices[0].finish_reason == "length"
    assert usual.startswith(short.choices[0].message.content)
    assert short.usage.completion_tokens == 12
    own = {"budget": "10%", "method": "h2o", "codec": "int8"}
    chosen = ask(client(server), [user(QUESTIONS[0], SCENE)], extra_body=own)
    assert {name: chosen.prefixkv[name] for name in own} == own
    assert chosen.choices[0].message.content == said_by_chat(demo, QUESTIONS[:1], SCENE, **own)[0]


def test_who_hangs_up_is_not_answered_any_more(server: Running) -> None:
    before = server.metrics()
    stream = ask(client(server), [user(QUESTIONS[0], SCENE)], stream=True, **LONG)
    for number, _ in enumerate(stream):
        if number == 3:
            break
    stream.close()
    server.wait_for("prefixkv_requests_running", 0)
    after = server.metrics()
    assert after["prefixkv_cancelled_total"] == before["prefixkv_cancelled_total"] + 1
    assert after["prefixkv_reserved_bytes"] == after["prefixkv_kept_cache_bytes"]
    # And one whose client wants all at once.
    with pytest.raises(openai.APITimeoutError):
        ask(client(server).with_options(timeout=1.5), [user(QUESTIONS[0], SCENE)], **LONG)
    # It may give up while its picture is read still, and is no running request then.
    server.wait_for("prefixkv_cancelled_total", before["prefixkv_cancelled_total"] + 2)
    server.wait_for("prefixkv_requests_running", 0)


@pytest.mark.exhaustive
def test_further_requests_than_may_wait_are_sent_away(server: Running) -> None:
    def one(number: int) -> str | None:
        try:
            ask(client(server), [user(QUESTIONS[0], SCENE)], temperature=50.0, max_tokens=60, seed=number)
        except openai.RateLimitError as error:
            return str(error.response.headers["retry-after"])
        return None

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(one, range(20)))
    assert set(found) == {None, "1"}
    assert found.count(None) >= 10
    server.wait_for("prefixkv_requests_running", 0)


def test_other_addresses_of_the_server(server: Running) -> None:
    assert [model.id for model in client(server).models.list()] == ["demo"]
    assert client(server).models.retrieve("demo").owned_by == "prefixkv"
    with urllib.request.urlopen(f"{server.url}/health") as answer:
        assert json.load(answer) == {"status": "ok", "model": "demo"}
    for path, headers, body, status in (
        ("/v1/models", {}, None, 401),
        ("/metrics", {}, None, 401),
        ("/v1/nothing", {}, None, 404),
        ("/v1/chat/completions", {}, None, 405),
        ("/v1/models", {"Host": "evil.example", "Authorization": f"Bearer {KEYS[0]}"}, None, 400),
        ("/v1/chat/completions", {"Content-Type": "text/plain", "Authorization": f"Bearer {KEYS[0]}"}, b"{}", 400),
        ("/v1/chat/completions", {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS[0]}"}, b"{", 400),
    ):
        request = urllib.request.Request(server.url + path, body, headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == status
        assert set(json.load(refused.value)["error"]) == {"message", "type", "param", "code"}
    metrics = server.metrics()
    assert metrics["prefixkv_memory_bytes"] == 64 * 2**20
    assert metrics['prefixkv_requests_total{status="200"}'] > 0
    assert 0 < metrics["prefixkv_entries_kept_total"] < metrics["prefixkv_entries_read_total"]
    assert metrics["prefixkv_time_to_first_token_seconds_count"] > 0


@pytest.mark.exhaustive
def test_a_signal_ends_it_while_it_answers(tmp_path: Path) -> None:
    with running(tmp_path) as it:
        stream = ask(client(it), [user(QUESTIONS[0], SCENE)], stream=True, temperature=50.0, max_tokens=5000)
        next(iter(stream))
        began = time.monotonic()
        it.process.send_signal(signal.SIGTERM)
        assert it.process.wait(30) == 0
        assert time.monotonic() - began < 20
        assert not (tmp_path / "server.json").exists()
        with pytest.raises((openai.APIError, http.HTTPError)):
            list(stream)
