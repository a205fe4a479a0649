"""Files: hostile ones are refused in one line, and a killed save leaves the old file or the new one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefixkv.batch.lines import read_lines
from prefixkv.documents import write_json
from prefixkv.errors import OptionError, PrefixKVError
from prefixkv.evaluation.data import DataSource
from prefixkv.home import find_file, named_file
from prefixkv.models.facts import model_facts
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.profiles.calibration import read_prompts, text_samples
from prefixkv.profiles.config import PrefixConfig
from prefixkv.profiles.profile import LayerProfile, LookAheadFile, average_curve

MODEL = ModelIdentity("some/model", None, KVGeometry(3, 2, 16, "float32"), "0123456789abcdef")


def a_profile() -> LayerProfile:
    curves = [[0.5, 0.8, 0.95, 1.0], [0.25, 0.5, 0.75, 1.0], [0.9, 1.0, 1.0, 1.0]]
    return LayerProfile(
        MODEL, "accumulated", "by hand", ({"prompt_tokens": 4},), tuple(average_curve([c]) for c in curves), "a test"
    )


def a_config() -> PrefixConfig:
    return PrefixConfig.search("30%", MODEL, 100, name="third", profile=a_profile(), profile_sha256="ab")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    a_config().save(tmp_path / "config.json")
    a_profile().save(tmp_path / "profile.json")
    assert PrefixConfig.load(tmp_path / "config.json") == a_config()
    assert LayerProfile.load(tmp_path / "profile.json") == a_profile()


def changed(content: dict[str, Any], key: str, value: Any) -> str:
    return json.dumps({**content, key: value})


HOSTILE_CONFIGS = {
    "truncated": lambda good: json.dumps(good)[:-20],
    "another version": lambda good: changed(good, "version", 4),
    "another format": lambda good: changed(good, "format", "prefixkv-profile"),
    "NaN": lambda good: changed(good, "keep_fractions", [0.5, float("nan"), 0.5]),
    "Infinity": lambda good: changed(good, "keep_fractions", [0.5, float("inf"), 0.5]),
    "too few layers": lambda good: changed(good, "keep_fractions", [0.5, 0.5]),
    "a text for a number": lambda good: changed(good, "keep_fractions", [0.5, "0.5", 0.5]),
    "zero": lambda good: changed(good, "keep_fractions", [0.5, 0, 0.5]),
    "above one": lambda good: changed(good, "keep_fractions", [0.5, 1.5, 0.5]),
    "true": lambda good: changed(good, "keep_fractions", [0.5, True, 0.5]),
    "no model": lambda good: changed(good, "model", None),
    "a model of text layers": lambda good: changed(good, "model", {**good["model"], "layers": "3"}),
    "an unknown method": lambda good: changed(good, "method", {"name": "magic", "allocation": "prefix"}),
    "an impossible budget": lambda good: changed(good, "budget", {**good["budget"], "requested": "-1GB"}),
    "a list": lambda good: "[1, 2, 3]",
    "no JSON": lambda good: "hello",
    "deep nesting": lambda good: "[" * 200_000,
    "bytes": lambda good: "\ud800",
    "a number beyond floats": lambda good: json.dumps(good).replace('"requested"', '"later": 1e999, "requested"'),
    "a count of 400 digits": lambda good: changed(good, "budget", {**good["budget"], "bytes": 10**400}),
    "a share of 400 digits": lambda good: changed(good, "keep_fractions", [0.5, 10**400, 0.5]),
    "nesting in a field nobody reads": lambda good: json.dumps(good)[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}",
    "windows beyond the layers": lambda good: changed(good, "model", {**good["model"], "window_layers": [1, 9]}),
}


@pytest.mark.parametrize("kind", HOSTILE_CONFIGS)
def test_hostile_config_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(HOSTILE_CONFIGS[kind](a_config().as_dict()).encode("utf-8", "surrogatepass"))
    with pytest.raises(PrefixKVError) as caught:
        PrefixConfig.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keep_fractions": [0.5, 1.5, 0.5]}, "keep_fractions.1 is 1.5: it should be less than or equal to 1"),
        ({"keep_fractions": [0.5, "x" * 9000, 0.5]}, "keep_fractions.1 is 'xxx"),
        ({"budget": {"requested": "5%"}}, "budget.kept_tokens_fraction is missing"),
        (
            {"method": {"name": "h2o", "allocation": "odd"}},
            "method.allocation is 'odd': it should be 'prefix'",
        ),
        ({"method": {"name": "magic", "allocation": "prefix"}}, "method 'magic' is not known"),
        ({"version": 4}, "from a later version"),
        ({"version": 10**300}, "from a later version"),
        ({"version": "x" * 900}, "names no version"),
    ],
)
def test_a_refusal_says_field_and_value_and_what_is_allowed(change: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**a_config().as_dict(), **change}), encoding="utf-8")
    with pytest.raises(PrefixKVError) as caught:
        PrefixConfig.load(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_measuring_again_mends_damaged_queries(tmp_path: Path) -> None:
    measured = dataclasses.replace(a_profile(), look_ahead=LookAheadFile.of(b"queries", 1))
    for _ in range(2):
        measured.save(tmp_path / "profile.json")
        loaded = LayerProfile.load(tmp_path / "profile.json").look_ahead
        assert loaded is not None
        assert loaded.read() == b"queries"
        assert loaded.path is not None
        loaded.path.write_bytes(b"damaged")


def test_what_a_later_version_adds_does_no_harm(tmp_path: Path) -> None:
    content = a_config().as_dict()
    content["budget"]["bits"] = content["later"] = {"more": [1]}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    assert PrefixConfig.load(tmp_path / "config.json") == a_config()


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(PrefixKVError, match="no regular file"):
        PrefixConfig.load(tmp_path / "pipe.json")


@pytest.mark.parametrize(
    "curve", [[0, 0.5, 0.4, 1], [0.1, 0.5, 1], [0, 0.5, 0.9], [], [0, "x", 1], None, [0, float("nan"), 1]]
)
def test_hostile_curve_is_refused(curve: Any, tmp_path: Path) -> None:
    content = a_profile().as_dict()
    content["layers"][1]["curve"] = curve
    (tmp_path / "profile.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PrefixKVError):
        LayerProfile.load(tmp_path / "profile.json")


@pytest.mark.parametrize(
    "losses", [{"4": "0.1"}, {"4": True}, {"2": -1}, {"2": float("nan")}, {"3": 0.1}, [], 0.1, None]
)
def test_hostile_rounding_losses_are_refused(losses: Any, tmp_path: Path) -> None:
    content = a_profile().as_dict()
    content["rounding_losses"] = losses
    (tmp_path / "profile.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PrefixKVError):
        LayerProfile.load(tmp_path / "profile.json")


@pytest.mark.parametrize("losses", [{"0.5": -1}, {"1.5": 0.1}, {"half": 0.1}, {"0.5": "0.1"}, [0.1], None])
def test_hostile_eviction_losses_are_refused(losses: Any, tmp_path: Path) -> None:
    content = a_profile().as_dict() | {"eviction_losses": losses}
    (tmp_path / "profile.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PrefixKVError):
        LayerProfile.load(tmp_path / "profile.json")


def test_losses_are_read_as_they_were_written(tmp_path: Path) -> None:
    profile = replace(a_profile(), rounding_losses={4: 0.01, 2: 0.1}, eviction_losses={0.5: 0.001, 0.1: 0.5})
    profile = replace(profile, mixed_losses={0.1: 0.2})
    profile.save(tmp_path / "profile.json")
    again = LayerProfile.load(tmp_path / "profile.json")
    for name in ("rounding_losses", "eviction_losses", "mixed_losses"):
        assert getattr(again, name) == getattr(profile, name)


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    tracemalloc.start()
    with pytest.raises(PrefixKVError, match="too large"):
        PrefixConfig.load(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    a_config().save(outside / "config.json")
    (tmp_path / "link.json").symlink_to(outside / "config.json")
    for action in (PrefixConfig.load, a_config().save):
        with pytest.raises(PrefixKVError, match="symbolic link"):
            action(tmp_path / "link.json")
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "configs").symlink_to(outside)
    with pytest.raises(PrefixKVError, match="leads out"):
        named_file("configs", "new")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "", ".", "..", "a/b", "x" * 101, "a\nb", "-x", ".hidden"])
def test_names_stay_in_the_home_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    with pytest.raises(OptionError):
        named_file("configs", name)


def test_unknown_name_says_which_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIXKV_HOME", str(tmp_path))
    a_config().save(named_file("configs", "third"))
    with pytest.raises(PrefixKVError, match="there are third"):
        find_file("configs", "fourth")


WRITER = """
import sys
from pathlib import Path
from prefixkv.documents import write_json
print("ready", flush=True)
while True:
    for value in ("a", "b"):
        write_json(Path(sys.argv[1]), {"format": value, "filler": [value] * 200_000})
"""


def test_killed_save_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"format": "a", "filler": ["a"] * 200_000})
    for round_ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.037 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["filler"] == [content["format"]] * 200_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_texts_of_powershell_are_read_alike_everywhere(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Wie heißt das?\r\n\r\nUnd das?\r\n".encode(encoding))
    assert read_prompts(path) == ["Wie heißt das?", "Und das?"]
    assert DataSource.parse(f"text:{path}").texts() == ["Wie heißt das?\n\nUnd das?\n"]
    path.write_bytes('{"prompt": "heißt"}\n{"prompt": "das"}\n'.encode(encoding))
    assert [line.prompt for line in read_lines(path)] == ["heißt", "das"]


def test_a_line_in_another_encoding_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "caf\xe9"}\n{"prompt": "das"}\n')
    latin, good = read_lines(tmp_path / "a.jsonl")
    assert (latin.error, good.error) == ("this is no UTF-8: save the file as UTF-8", None)


@pytest.mark.parametrize(
    ("data", "says"),
    [("caf\u00e9".encode("latin-1"), "it is no UTF-8"), ("ab".encode("utf-16")[:-1], "UTF-16, and broken")],
)
def test_other_encodings_are_refused_alike_everywhere(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    for reads in (
        read_prompts,
        lambda path: DataSource.parse(f"text:{path}").texts(),
        lambda path: text_samples(path, 1),
    ):
        with pytest.raises(PrefixKVError, match=says) as caught:
            reads(path)
        assert str(caught.value).endswith("save it as UTF-8")
        assert "\n" not in str(caught.value)


ODD_CONFIGURATIONS = {
    "a list for a size": {"hidden_size": [0.5] * 4000},
    "a list for a dtype": {"dtype": [1.5] * 900},
    "a number for the kinds of layers": {"layer_types": 0.5},
    "lists for the kinds of layers": {"layer_types": [[1]]},
    "a long kind of layer": {"layer_types": ["x" * 9000]},
    "layers without end": {"num_hidden_layers": 10**12},
    "a long type": {"model_type": "x\n" * 9000},
    "nesting": {"x": "NEST"},
}


@pytest.mark.parametrize("kind", ODD_CONFIGURATIONS)
def test_hostile_model_folder_is_one_line(tmp_path: Path, kind: str) -> None:
    content = {"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    content |= {"hidden_size": 64, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512}
    text = json.dumps(content | ODD_CONFIGURATIONS[kind]).replace('"NEST"', "[" * 100_000)
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(PrefixKVError) as caught:
        model_facts(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "index", ["[1]", "{}", '{"metadata": {"total_size": "x"}}', '{"metadata": {"total_size": NaN}}', "x"]
)
def test_an_odd_index_of_weights_leaves_the_size_unknown(tmp_path: Path, index: str) -> None:
    content = {"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64}
    content |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    notices: list[str] = []
    assert model_facts(str(tmp_path), notify=notices.append).weight_bytes is None
    assert notices


def test_a_model_of_no_number_of_layers_is_refused() -> None:
    text = SimpleNamespace(model_type="x", num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=None)
    whole = SimpleNamespace(model_type="x", get_text_config=lambda decoder: text)
    with pytest.raises(PrefixKVError, match="it names no number of layers"):
        KVGeometry.of(whole, "float32")


def test_a_text_part_that_is_no_configuration_is_refused() -> None:
    whole = SimpleNamespace(model_type="x", get_text_config=lambda decoder: {"model_type": "llama"})
    with pytest.raises(PrefixKVError, match="its text part is no configuration"):
        KVGeometry.of(whole, "float32")
