"""A folder is remembered by its whole path; a name that no folder can have is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefixkv.errors import PrefixKVError
from prefixkv.models.files import read_identity
from prefixkv.models.loading import load_model
from prefixkv.models.names import ALIASES, check_model_name, folder_notice, full_name, known_name, profile_name
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "model"
    tiny.llama().save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("typed", ["model", "./model", "../{up}/model", "model/"])
def test_a_folder_has_one_name_however_it_is_typed(folder: Path, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.chdir(folder.parent)
    name = typed.format(up=folder.parent.name)
    assert full_name(name) == known_name(name) == str(folder)
    assert profile_name(name) == profile_name(str(folder))
    assert load_model(name, "cpu").id == read_identity(name).id == str(folder)


def test_what_is_no_folder_keeps_its_name() -> None:
    assert full_name("llava") == ALIASES["llava"]
    assert [full_name(name) for name in ("auto", "demo", "org/model", "")] == ["auto", "demo", "org/model", ""]


def test_a_folder_that_is_called_like_an_alias_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for name in ("llava", "demo"):
        assert folder_notice(name) is None
        folder.rename(name)
        folder = Path(name).resolve()
        said = folder_notice(name)
        assert said is not None
        assert f"./{name}" in said
        assert full_name(f"./{name}") == str(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "~nosuch-user/model", "a\0b", "./" + "y" * 300])
def test_name_that_no_folder_can_have_is_refused_in_one_short_line(name: str) -> None:
    with pytest.raises(PrefixKVError, match="is not there") as caught:
        check_model_name(name)
    assert len(str(caught.value)) < 500
    assert full_name(name) == name
