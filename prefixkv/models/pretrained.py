"""The one place where transformers reads a model's files: nothing of them runs, and nothing of them is missing unseen.

A folder or a hub repository may bring Python of its own, weights of another model, or none at all. Transformers asks on
standard input whether such code may run, and fills weights that are not there with random numbers. Here the code runs
only where the user has said so beforehand, and a model whose weights are not whole is refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from prefixkv.errors import DeviceMemoryError, PrefixKVError, is_out_of_memory
from prefixkv.models.config_file import config_path
from prefixkv.models.hub import quiet
from prefixkv.models.weight_files import check_weight_files
from prefixkv.transformers_compat import is_quantized

_MOST_CHARACTERS = 300
_OWN_CODE = "trust_remote_code"
"""What transformers' own refusal of such code names."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Read a model's files quietly; whatever transformers raises becomes one line.

    Transformers logs what it finds wrong and draws progress bars. Both are off inside, and afterwards they are what
    they were before, since a program that uses this library has its own wishes.

    Args:
        what: is read, such as `model 'folder'`, as the message begins.

    Raises:
        DeviceMemoryError: a device's memory is too small.
        PrefixKVError: anything else.
    """
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with quiet():
            yield
    except PrefixKVError:
        raise
    # Broken files make transformers and the libraries under it raise errors of more than ten kinds.
    except Exception as error:
        if is_out_of_memory(error):
            raise DeviceMemoryError(f"the weights of {what} do not fit: choose a smaller model") from error
        raise PrefixKVError(f"{what} cannot be loaded: {_reason(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def read_part(kind: Any, source: str, trust_remote_code: bool = False) -> Any:
    """A configuration, tokenizer or processor, from this disk alone.

    Args:
        kind: a class of transformers, such as `AutoConfig`.
        source: a folder, or a hub id whose files were brought here.
        trust_remote_code: whether Python that comes with the files may run.
    """
    return kind.from_pretrained(source, trust_remote_code=trust_remote_code, local_files_only=True)


def read_model(kind: Any, source: str, trust_remote_code: bool = False, **arguments: Any) -> Any:
    """A model with all of its weights, from this disk alone.

    Args:
        kind: an automatic model class of transformers.
        source: a folder, or a hub id whose files were brought here.
        trust_remote_code: whether Python that comes with the files may run.
        **arguments: of `from_pretrained`.

    Raises:
        PrefixKVError: weights are missing, of another shape than the configuration says, or more than it says.
    """
    config_file = config_path(source)
    if config_file is not None:
        check_weight_files(config_file.parent, is_quantized(arguments["config"]))
    # What is of another shape is looked at below; else transformers raises an error that points to a muted report.
    model, found = kind.from_pretrained(
        source,
        trust_remote_code=trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **arguments,
    )
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    mismatched = sorted(found["mismatched_keys"])
    if mismatched:
        name, there, wanted = mismatched[0]
        raise PrefixKVError(
            f"{len(mismatched)} of the model's weights are of another shape than its configuration says: {name} is one "
            f"({tuple(there)} in the files, {tuple(wanted)} in the model): download it again, or mend config.json"
        )
    if missing:
        others = f", and {len(unknown)} are there that it has no place for, such as {unknown[0]}" if unknown else ""
        raise PrefixKVError(
            f"{len(missing)} of the model's weights are not in its files, such as {missing[0]}{others}: download it "
            "again, or look for a version in transformers' layout (often named -hf)"
        )
    if left_out := _without_a_place(model, unknown):
        raise PrefixKVError(
            f"{len(left_out)} of the weights in the files have no place by the model's configuration, such as "
            f"{left_out[0]}: download it again, or mend config.json"
        )
    return model


def _without_a_place(model: Any, unknown: list[str]) -> list[str]:
    """Of the tensors that a model does not use, those that it would use if it had one more layer, or a bias.

    Others are of parts that transformers leaves out, such as heads for training.
    """
    holders = (name for name, module in model.named_modules() if list(module.parameters(recurse=False)))
    places = {_without_numbers(name) for name in holders}
    return [
        name
        for name in unknown
        if name.endswith((".weight", ".bias")) and _without_numbers(name.rpartition(".")[0]) in places
    ]


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if _OWN_CODE in text and "code" in text:
        return "it brings Python code of its own, which is not run without your leave: give --trust-remote-code"
    if isinstance(error, KeyError):
        return f"it names {text[:_MOST_CHARACTERS]}, which this transformers does not know"
    kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
    return f"{kind}{text[:_MOST_CHARACTERS]}" if text else type(error).__name__


def chat_template(processor: Any) -> str | None:
    """The template that renders a conversation, wherever a model's files have it; None where they have none.

    Args:
        processor: a processor or a bare tokenizer. Older repositories have the template with the tokenizer only, and
            some have several, by name.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    for owner in (processor, tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    return None
