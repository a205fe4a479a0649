"""Folders with one thing wrong: nothing of them runs, and no model answers that is not whole."""

from __future__ import annotations

import io
import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import prefixkv
from prefixkv.demo import weights_path
from prefixkv.errors import PrefixKVError
from prefixkv.models.facts import model_facts
from prefixkv.models.loading import load_model
from prefixkv.models.placement import Placement
from prefixkv.models.settings_check import SETTINGS
from prefixkv.models.weight_files import INDEX

Edit = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model, in which a file may be changed."""
    copy = tmp_path / "model"
    shutil.copytree(weights_path(), copy)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


def change_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


def change_text_part(folder: Path, **values: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["text_config"] |= values
    (folder / "config.json").write_text(json.dumps(content))


def rename_weights(folder: Path, old: str, new: str | None) -> None:
    """Give weights another name; None leaves them out."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for part in sorted(folder.glob("model-*.safetensors")):
        kept = {name: value for name, value in load_file(part).items() if new is not None or old not in name}
        save_file({name.replace(old, new or old): value for name, value in kept.items()}, part, {"format": "pt"})
    index["weight_map"] = {
        name.replace(old, new or old): file
        for name, file in index["weight_map"].items()
        if new is not None or old not in name
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def as_bytes(file: Path) -> None:
    """Weights as they are in a quantised checkpoint."""
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    save_file(weights | {name: weights[name].to(torch.int8)}, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda folder: rename_weights(folder, "layers.3.", None), "weights are not in its files, such as"),
        (lambda folder: rename_weights(folder, "layers.3.", "stages.3."), "that it has no place for, such as"),
        (lambda folder: change_text_part(folder, intermediate_size=32), "of another shape than its configuration says"),
        (
            lambda folder: next(folder.glob("model-00002*")).write_text("version https://git-lfs.github.com/spec/v1\n"),
            "is a pointer of git-lfs, not",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
            "tokenizer.json is a pointer of git-lfs, not",
        ),
        (lambda folder: next(folder.glob("model-00002*")).write_bytes(b"\xff" * 200), "is no safetensors file"),
        (lambda folder: change_text_part(folder, num_key_value_heads=0), "num_key_value_heads is 0, which"),
        (lambda folder: change_text_part(folder, num_hidden_layers="8"), "num_hidden_layers is '8', which"),
        (
            lambda folder: change_json(folder / "config.json", text_config=None, num_hidden_layers=40),
            "program's layout",
        ),
        (lambda folder: cut_off(next(folder.glob("model-00002*"))), "00002-of-00003.safetensors is cut off ("),
        (lambda folder: next(folder.glob("model-00002*")).unlink(), "names, is not there: download it again"),
        (lambda folder: change_json(folder / INDEX, weight_map=None), "does not say which file each weight is in"),
        (lambda folder: as_bytes(next(folder.glob("model-00002*"))), "is quantised (I8), and config.json has no"),
        (
            lambda folder: change_json(folder / "config.json", quantization_config={"quant_method": "zip"}),
            "asks for the quantisation 'zip', which this",
        ),
        (
            lambda folder: change_json(folder / "processor_config.json", processor_class="Gone"),
            "no processor for pictures",
        ),
        (lambda folder: (folder / SETTINGS).write_text('{"eos'), "generation_config.json is no JSON object"),
        (lambda folder: change_json(folder / SETTINGS, eos_token_id=["</s>"]), "eos_token_id is ['</s>']: give the"),
        (lambda folder: change_json(folder / SETTINGS, stop_strings=[3]), "stop_strings is [3]: give a text"),
        (lambda folder: change_json(folder / SETTINGS, repetition_penalty="x"), "repetition_penalty 'x' cannot be"),
        (
            lambda folder: change_json(folder / SETTINGS, forced_eos_token_id=9**9),
            "forced_eos_token_id 387420489 cannot",
        ),
        (lambda folder: change_text_part(folder, max_position_embeddings="9"), "max_position_embeddings is '9', which"),
        (lambda folder: change_text_part(folder, max_position_embeddings=9**99), "which is no count: give a whole"),
        (lambda folder: change_text_part(folder, hidden_act="gone"), "it names 'gone', which this transformers"),
    ],
    ids=[
        "missing",
        "renamed",
        "shape",
        "pointer",
        "pointer for the tokenizer",
        "damaged",
        "no heads",
        "text for a number",
        "original LLaVA",
        "cut off",
        "a file is gone",
        "no index",
        "whole numbers",
        "unknown packing",
        "no processor",
        "settings are no JSON",
        "an end is a text",
        "a stop is a number",
        "a penalty is a text",
        "an end beyond the vocabulary",
        "positions are a text",
        "too many positions",
        "unknown activation",
    ],
)
def test_a_model_that_is_not_whole_is_refused_in_one_line(folder: Path, edit: Edit, says: str) -> None:
    edit(folder)
    with pytest.raises(PrefixKVError) as refused:
        load_model(str(folder), device="cpu")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "internal" not in str(refused.value)


def test_facts_of_a_folder_that_was_cloned_without_its_weights_say_so(folder: Path) -> None:
    next(folder.glob("model-00002*")).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PrefixKVError, match="is a pointer of git-lfs, not"):
        model_facts(str(folder))


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """A folder whose configuration is Python of its own, which leaves a mark where it runs."""
    made = tmp_path / "own"
    made.mkdir()
    (made / "config.json").write_text(
        json.dumps({"model_type": "mycustom", "auto_map": {"AutoConfig": "configuration_x.XConfig"}})
    )
    (made / "configuration_x.py").write_text(
        "import pathlib\n"
        f"pathlib.Path({str(tmp_path / 'HAS_RUN')!r}).write_text('yes')\n"
        "from transformers import PretrainedConfig\n"
        "class XConfig(PretrainedConfig):\n    model_type = 'mycustom'\n"
    )
    return made


def test_code_of_a_folder_does_not_run_whatever_stdin_says(
    own_code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.StringIO("y\ny\n")
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(PrefixKVError, match="give --trust-remote-code"):
        load_model(str(own_code), device="cpu")
    assert not (own_code.parent / "HAS_RUN").exists()
    assert stdin.tell() == 0
    assert capsys.readouterr().out == ""


def test_code_runs_where_the_user_says_so_and_that_is_said(
    own_code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    notices: list[str] = []
    # The configuration is read by its own code; that it is no model's is found out behind it.
    with pytest.raises(PrefixKVError):
        load_model(str(own_code), "cpu", notify=notices.append, placement=Placement(trust_remote_code=True))
    assert (own_code.parent / "HAS_RUN").exists()
    assert any("may run on this machine" in notice for notice in notices)


def test_facts_of_a_folder_run_its_code_only_where_the_user_says_so(
    own_code: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(PrefixKVError, match="give --trust-remote-code"):
        model_facts(str(own_code))
    assert not (own_code.parent / "HAS_RUN").exists()
    notices: list[str] = []
    # As above: it is no model's.
    with pytest.raises(PrefixKVError):
        model_facts(str(own_code), notify=notices.append, trust_remote_code=True)
    assert (own_code.parent / "HAS_RUN").exists()
    assert any("may run on this machine" in notice for notice in notices)


def test_transformers_logs_as_before_once_a_model_is_loaded() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_warning()
    prefixkv.load_model("demo", device="cpu")
    assert transformers_logging.get_verbosity() == logging.WARNING
    assert transformers_logging.is_progress_bar_enabled()


def test_weights_of_a_larger_model_are_refused(tmp_path: Path) -> None:
    """Of one with more layers, or with biases; parts that are left out for good reason are no harm."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from tests import tiny

    tiny.llama().save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", (tmp_path / "config.json").read_text()
    weights = load_file(file)
    norm = weights["model.norm.weight"].clone()
    save_file(weights | {"mtp.head.weight": norm}, file, {"format": "pt"})
    load_model(str(tmp_path), device="cpu")
    save_file(weights | {"model.layers.0.self_attn.q_proj.bias": norm}, file, {"format": "pt"})
    with pytest.raises(PrefixKVError, match=r"q_proj\.bias"):
        load_model(str(tmp_path), device="cpu")
    save_file(weights, file, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config) | {"num_hidden_layers": 1}))
    with pytest.raises(PrefixKVError, match=r"layers\.1\."):
        load_model(str(tmp_path), device="cpu")
