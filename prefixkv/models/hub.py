"""The hub of models: one short question before anything is read from it, and one line where it does not answer."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import PrefixKVError

PATIENCE_SECONDS = 2.5
"""The hub has so long to answer, unless the user says otherwise in HF_HUB_ETAG_TIMEOUT."""
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_OFF = ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class HubModel:
    """What the hub says of a model.

    Attributes:
        id: `owner/name`.
        files: bytes of each file, by its path in the repository; 0 where the hub does not say.
    """

    id: str
    files: dict[str, int]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the hub's client from logging its tries, which says in many lines what an error says in one."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def offline_variable() -> str | None:
    """The environment variable by which the user has forbidden the network; None where there is none."""
    return next((name for name in _OFFLINE_VARIABLES if os.environ.get(name, "").lower() not in _OFF), None)


def look_up(name: str) -> HubModel:
    """Ask the hub once for a model's files.

    Args:
        name: a hub id.

    Raises:
        PrefixKVError: the hub cannot be reached, or will not give the model; says what to do.
    """
    if variable := offline_variable():
        raise PrefixKVError(_unreachable(name, f"{variable} forbids to ask for it"))
    from huggingface_hub import HfApi

    patience = _patience()
    told: list[Any] = []

    def ask() -> None:
        try:
            told.append(HfApi().model_info(name, timeout=patience, files_metadata=True))
        except Exception as error:  # the client raises kinds of several libraries, which differ between its versions
            told.append(error)

    # In a thread, because nothing limits how long a host's name is looked up.
    asking = threading.Thread(target=ask, daemon=True)
    with quiet():
        asking.start()
        asking.join(patience + 0.5)
    answer = told[0] if told else TimeoutError("timed out")
    if isinstance(answer, Exception):
        raise refusal(name, answer) from answer
    return HubModel(name, {file.rfilename: file.size or 0 for file in answer.siblings or ()})


def refusal(name: str, error: BaseException) -> PrefixKVError:
    """What to tell the user of an error of the hub's client.

    Args:
        name: a hub id.
        error: whatever the client raised.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return PrefixKVError(
            f"model {name!r} is given only to those who have accepted its terms: accept them at "
            f"{constants.ENDPOINT}/{name}, then log in with `hf auth login` or set HF_TOKEN"
        )
    if status in (401, 404) or isinstance(error, HFValidationError):
        return PrefixKVError(
            f"there is no model {name!r} at {constants.ENDPOINT}, or it is private: check the name (`prefixkv models` "
            "lists some); for one of your own log in with `hf auth login` or set HF_TOKEN"
        )
    if status is not None:
        return PrefixKVError(_unreachable(name, f"{constants.ENDPOINT} answers with an error ({status})"))
    return PrefixKVError(_unreachable(name, f"{constants.ENDPOINT} cannot be reached ({_reason(error)})"))


def _unreachable(name: str, why: str) -> str:
    return (
        f"model {name!r} is not on this machine, and {why}: run `hf download {name}` where there is a network and "
        "bring the folder to which HF_HOME points, or give a folder that holds it; `--model demo` needs no network"
    )


def _patience() -> float:
    try:
        return float(os.environ["HF_HUB_ETAG_TIMEOUT"])
    except (KeyError, ValueError):
        return PATIENCE_SECONDS


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
