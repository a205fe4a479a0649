"""Lists of what was saved: a table for a person, tabs for a program, and one bad file harms no other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import prefixkv
from prefixkv.demo import profile_path as bundled_profile
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.policy.budget import format_bytes
from prefixkv_cli.app import main
from prefixkv_cli.tables.saved_table import age, count

IDENTITY = ModelIdentity("some/model", None, KVGeometry(4, 2, 8, "float32"), None)


class Listing:
    """What a command wrote, and how it ended."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        self.exit_code = ended.value.code
        self.stdout, self.stderr = capsys.readouterr()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    config = prefixkv.PrefixConfig.search("50%", IDENTITY, 100, allocation_name="uniform", name="half")
    config.save(tmp_path / "configs" / "half.json")
    return tmp_path


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_listed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "configs" / "odd.json").write_text("[" * 2000)
    done = Listing(capsys, "configs", "list")
    assert done.exit_code == 0
    size = format_bytes((home / "configs" / "half.json").stat().st_size)
    assert done.stdout == f"half\tsome/model\tjust now\t{size}\tguided\tauto\t50%\tuniform\n"
    assert "odd is left out" in done.stderr
    assert [row["name"] for row in json.loads(Listing(capsys, "configs", "list", "--json").stdout)["configs"]] == [
        "half"
    ]


def test_a_bad_context_harms_no_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "contexts").mkdir()
    (home / "contexts" / "odd.safetensors").write_bytes(b"nothing")
    done = Listing(capsys, "contexts", "list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "odd is left out" in done.stderr


def test_a_terminal_gets_headings(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prefixkv_cli.output.is_terminal", lambda stream: True)
    listed = Listing(capsys, "configs", "list").stdout
    assert listed.split("\n")[0].split() == [
        *("name", "model", "saved", "size"),
        *("method", "codec", "budget", "source"),
    ]


def test_profiles_are_listed_shown_and_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "profiles").mkdir()
    shutil.copy(bundled_profile(), home / "profiles" / "mine.json")
    (home / "profiles" / "odd.json").write_text("{}")
    others = f"mine-too-{'0' * 12}.safetensors"
    for beside in (f"mine-{'0' * 12}.safetensors", f"mine-{'a' * 12}.safetensors", others):
        (home / "profiles" / beside).write_bytes(b"queries")
    done = Listing(capsys, "profile", "list")
    assert done.exit_code == 0
    assert re.match(r"mine\tdemo\tjust now\t[0-9.]+ KiB\t48 samples\t", done.stdout)
    assert "odd is left out" in done.stderr
    assert [row["name"] for row in json.loads(Listing(capsys, "profile", "list", "--json").stdout)["profiles"]] == [
        "mine"
    ]
    assert json.loads(Listing(capsys, "profile", "show", "mine", "--json").stdout)["model"]["id"] == "demo"
    assert Listing(capsys, "profile", "remove", "mine").exit_code == 0
    # Its queries go with it, those of an earlier measurement too; other profiles' stay.
    assert sorted(path.name for path in (home / "profiles").iterdir()) == [others, "odd.json"]
    again = Listing(capsys, "profile", "remove", "mine")
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)


def test_a_name_a_text_and_a_path_all_load(home: Path) -> None:
    path = home / "configs" / "half.json"
    loaded = [prefixkv.PrefixConfig.load(source) for source in ("half", str(path), path)]
    assert loaded[0] == loaded[1] == loaded[2]
    with pytest.raises(prefixkv.PrefixKVError, match="there is no profile named 'half'"):
        prefixkv.LayerProfile.load("half")
    # The demo model's is bundled; one that was measured here is taken instead.
    bundled = prefixkv.LayerProfile.load("demo")
    assert bundled.model.id == "demo"


def test_ages_and_counts_are_words() -> None:
    assert [age(seconds) for seconds in (0, 59, 60, 7_300, 86_400 * 3)] == [
        "just now",
        "just now",
        "1 minute ago",
        "2 hours ago",
        "3 days ago",
    ]
    assert (count(1, "turn"), count(2, "turn")) == ("1 turn", "2 turns")


def test_an_editor_completes_the_public_names() -> None:
    assert {"compress", "Conversation", "LayerProfile", "load_model"} <= set(dir(prefixkv))
