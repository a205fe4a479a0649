"""`chat PICTURE -p QUESTION` in its plainest form, asked of the user's server before anything else is loaded.

The parser of commands, the checks of options and what opens pictures take longer to load than a server that runs takes
to answer. So words that hold nothing but pictures, one question and the commonest options are read here. Whatever else
there is, and whatever goes wrong before the server has taken the question, goes the usual way, which does all of it
again and says what there is to say.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prefixkv.errors import PrefixKVError
from prefixkv.home import home

if TYPE_CHECKING:
    from prefixkv_cli.remote.choice import ServerAddress
    from prefixkv_cli.remote.client import RemoteConversation, SentPicture

MOST_PICTURE_BYTES = 32 * 2**20
"""Of a file that is sent as it is."""
OPTIONS = {
    "budget": "20%",
    "method": "guided",
    "codec": "auto",
    "max_completion_tokens": 512,
    "temperature": 0.0,
    "top_p": 1.0,
    "seed": None,
    "stop": [],
    "template_args": {},
    "max_pixels": None,
    "keep_marks": False,
}
"""What the usual way sends where no option is given."""
_SUFFIXES = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}
"""How the names of picture files end, and how their content begins."""
_SWITCHES = frozenset({"--json", "--log", "--no-log", "--plain", "--quiet", "-q"})
_VALUES = {
    "-p": "question",
    "--prompt": "question",
    "--model": "model",
    "--budget": "budget",
    "--max-new-tokens": "max_completion_tokens",
}
"""Options with a value, and what it is."""
_VARIABLES_LEFT_ASIDE = frozenset({"PREFIXKV_HOME", "PREFIXKV_API_KEY", "PREFIXKV_CAPTURE", "PREFIXKV_GPU_RESULTS"})
"""Variables of ours that change nothing here."""
_COUNT = re.compile("[1-9][0-9]{0,5}", re.ASCII)
_LOG = {None: True, "true": True, "false": False}
"""Whether answers are logged, by what `PREFIXKV_LOG` holds."""


class ShortQuestion(NamedTuple):
    """What the words of a command line ask for.

    Attributes:
        pictures: paths, at least one.
        question: the text.
        switches: of `_SWITCHES`.
        model: that is to answer; `auto` for the server's.
        options: fields of the request that are not as in `OPTIONS`.
    """

    pictures: tuple[str, ...]
    question: str
    switches: frozenset[str]
    model: str
    options: dict[str, str | int]


def answer_shortly(words: Sequence[str]) -> bool:
    """Answer a short question by the user's server.

    Args:
        words: the command line.

    Returns:
        Whether it was answered; where not, nothing was said.

    Raises:
        PrefixKVError: the server has taken the question and does not answer it to its end.
        ReaderLeftError: whoever read stdout has closed it.
    """
    asked = read_short(words)
    if asked is None or (server := _server()) is None or asked.model not in ("auto", server.model):
        return False
    talk = _begun(asked, server)
    if talk is None:
        return False
    # Here, while the server reads: what writes an answer, and the log's SQLite.
    from prefixkv_cli import output
    from prefixkv_cli.answer_log.journal import Journal
    from prefixkv_cli.remote.questions import write_answer

    output.be_quiet(bool({"--quiet", "-q"} & asked.switches))
    journal = Journal(_is_logged(asked))
    if journal.is_on:
        import_module("prefixkv_cli.answer_log.store")
    write_answer(talk, asked.question, talk.pieces(), journal, "--json" in asked.switches, "--plain" in asked.switches)
    return True


def read_short(words: Sequence[str]) -> ShortQuestion | None:
    """The short question that the words of a command line are.

    Args:
        words: without the program's name.

    Returns:
        None where they are none, or an environment variable or the settings file may change what is meant.
    """
    if words[:1] not in (["chat"], ("chat",)) or not _is_plain_environment():
        return None
    pictures, switches, values = list[str](), set[str](), dict[str, str]()
    rest = iter(words[1:])
    for word in rest:
        if (name := _VALUES.get(word)) is not None:
            if name in values:
                return None
            values[name] = next(rest, "")
        elif word in _SWITCHES:
            switches.add(word)
        elif word.startswith("-"):
            return None
        else:
            pictures.append(word)
    question, model = values.pop("question", ""), values.pop("model", "auto")
    if not pictures or question.strip() in ("", "-") or {"--log", "--no-log"} <= switches:
        return None
    options: dict[str, str | int] = dict(values)
    if (count := values.get("max_completion_tokens")) is not None:
        if not _COUNT.fullmatch(count):
            return None
        options["max_completion_tokens"] = int(count)
    return ShortQuestion(tuple(pictures), question, frozenset(switches), model, options)


def _is_plain_environment() -> bool:
    ours = {name for name in os.environ if "PREFIXKV_" in name} - _VARIABLES_LEFT_ASIDE - {"PREFIXKV_LOG"}
    settings = home() / "settings.toml"
    return not ours and os.environ.get("PREFIXKV_LOG") in _LOG and not os.path.lexists(settings)


def _is_logged(asked: ShortQuestion) -> bool:
    said = {"--log", "--no-log"} & asked.switches
    return "--log" in said if said else _LOG[os.environ.get("PREFIXKV_LOG")]


def _server() -> ServerAddress | None:
    from prefixkv_cli.remote.choice import own_server

    return own_server()


def _begun(asked: ShortQuestion, server: ServerAddress) -> RemoteConversation | None:
    """The question, once the server has taken it."""
    from prefixkv_cli.remote.client import RemoteConversation

    sent = [_sent(picture) for picture in asked.pictures]
    pictures = [picture for picture in sent if picture is not None]
    if len(pictures) < len(sent):
        return None
    # Who names the demo model has it say something about any picture.
    beside = {"known_pictures_only": asked.model == "auto", "picture_facts": _is_logged(asked)}
    options = {**OPTIONS, **asked.options, **beside}
    talk = RemoteConversation(server, "", pictures, options)
    if not talk.is_there():
        return None
    try:
        talk.begin(asked.question)
    except PrefixKVError:
        return None
    return talk


def _sent(source: str) -> SentPicture | None:
    """A picture file as it is; None for what is no ordinary file of the commonest kinds."""
    from prefixkv_cli.remote.client import SentPicture

    path = Path(source)
    start = _SUFFIXES.get(path.suffix.lower())
    if start is None or ":" in source or source.startswith("~"):
        return None
    try:
        if not path.is_file() or path.stat().st_size > MOST_PICTURE_BYTES:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    if not data.startswith(start):
        return None
    kind = "png" if path.suffix.lower() == ".png" else "jpeg"
    return SentPicture(str(path), f"data:image/{kind};base64,{b2a_base64(data, newline=False).decode()}")
