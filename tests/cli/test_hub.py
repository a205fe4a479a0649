"""What happens between the hub of models and this disk: one try, one line, and only the files that are loaded."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefixkv.errors import PrefixKVError
from prefixkv.models.download import Part, bring, download, is_here, missing, wanted_files
from prefixkv.models.facts import model_facts
from prefixkv.models.hub import HubModel, look_up
from prefixkv.models.loading import load_model
from tests.loopback_hub import COMMIT, LoopbackHub, silent_hub

MODEL = "someone/tiny"
UseHub = Callable[[str], None]


@pytest.fixture
def hub(model_folder: Path, use_hub: UseHub) -> Iterator[LoopbackHub]:
    """A hub that has the tiny LLaVA."""
    hub = LoopbackHub(MODEL, model_folder)
    use_hub(hub.url)
    yield hub
    hub.close()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "there is no model 'someone/tiny' at "),
        (401, "there is no model 'someone/tiny' at "),
        (403, "accept them at "),
        (503, "answers with an error (503): run `hf download someone/tiny`"),
        (None, "cannot be reached ([Errno 111] Connection refused): run `hf download someone/tiny`"),
    ],
)
def test_it_is_asked_once_and_its_refusal_is_one_line(
    use_hub: UseHub, caplog: pytest.LogCaptureFixture, status: int | None, says: str
) -> None:
    hub = LoopbackHub(MODEL, status=status)
    use_hub(hub.url)
    if status is None:
        hub.close()
    with pytest.raises(PrefixKVError) as refused:
        load_model(MODEL)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 1
    # The client has questions of its own beside those for the model.
    assert sum(MODEL in asked for asked in hub.asked) == (0 if status is None else 1)
    assert caplog.records == []
    if status is not None:
        hub.close()


def test_one_that_does_not_answer_is_not_waited_for(use_hub: UseHub, caplog: pytest.LogCaptureFixture) -> None:
    started = time.perf_counter()
    with silent_hub() as url:
        use_hub(url)
        with pytest.raises(PrefixKVError, match=r"cannot be reached \(.*timed out.*\): run `hf download"):
            load_model(MODEL)
    assert time.perf_counter() - started < 4
    assert caplog.records == []
    assert logging.getLogger("huggingface_hub").level < logging.CRITICAL


def test_who_forbids_the_network_is_told_so(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PrefixKVError, match="HF_HUB_OFFLINE forbids to ask for it: run `hf download"):
        load_model(MODEL)
    with pytest.raises(PrefixKVError, match="HF_HUB_OFFLINE forbids"):
        model_facts(MODEL)
    assert hub.asked == []


def test_a_model_comes_once_and_is_then_loaded_without_the_network(hub: LoopbackHub, model_folder: Path) -> None:
    assert model_facts(MODEL).identity.revision == COMMIT
    assert is_here(MODEL, Part.CONFIG)
    assert not is_here(MODEL, Part.PROCESSOR)
    seen: list[tuple[int, int]] = []
    found = missing(MODEL)
    assert found is not None
    download(found, progress=lambda done, total: seen.append((done, total)))
    whole = sum(wanted_files(found).values())
    assert seen[-1] == (whole, whole)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert whole > (model_folder / "model.safetensors").stat().st_size
    assert is_here(MODEL)
    hub.asked.clear()
    loaded = load_model(MODEL, "cpu")
    assert hub.asked == []
    assert (loaded.id, loaded.identity.revision) == (MODEL, COMMIT)


def test_what_was_half_downloaded_is_made_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    bring(MODEL)
    (weights,) = (tmp_path / "hub").glob("models--*/snapshots/*/model.safetensors")
    weights.unlink()
    assert not is_here(MODEL)
    hub.asked.clear()
    bring(MODEL)
    assert {path.rpartition("/")[2] for path in hub.asked[1:]} == {"model.safetensors"}
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (weights.parent / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_here(MODEL)


def test_only_what_is_loaded_is_fetched() -> None:
    names = (
        "config.json tokenizer.json chat_template.jinja additional_chat_templates/x.jinja merges.txt own.py README.md "
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.fp16.safetensors pytorch_model.bin "
        "consolidated.safetensors onnx/model.onnx onnx/config.json original/params.json"
    )
    model = HubModel(MODEL, dict.fromkeys(names.split(), 1))
    small = {"config.json", "tokenizer.json", "chat_template.jinja", "additional_chat_templates/x.jinja", "merges.txt"}
    weights = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    assert wanted_files(model).keys() == small | weights
    assert list(wanted_files(model))[-2:] == sorted(weights)
    assert wanted_files(model, Part.PROCESSOR, with_code=True).keys() == small | {"own.py"}
    assert wanted_files(model, Part.CONFIG).keys() == {"config.json"}
    older = HubModel(MODEL, {"config.json": 1, "pytorch_model.bin": 1})
    assert "pytorch_model.bin" in wanted_files(older)
    with pytest.raises(PrefixKVError, match="often named -hf"):
        wanted_files(HubModel(MODEL, {"config.json": 1, "consolidated.safetensors": 1}))


def test_a_name_that_is_none_is_refused(hub: LoopbackHub) -> None:
    with pytest.raises(PrefixKVError, match="there is no model"):
        look_up("a--b")
