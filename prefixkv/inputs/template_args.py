"""Arguments for a model's chat template, such as `enable_thinking=false`: what they are called and may be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefixkv.errors import OptionError

_NAME = re.compile(r"[A-Za-z_]\w{0,99}")
_TAKEN = re.compile(
    r"messages|conversation|chat_template|add_generation_prompt|continue_final_message|tokenize|padding|truncation|"
    r"max_length|return_.*|.*_kwargs|load_audio_from_video|self"
)
"""What the program itself says when it renders a conversation, or transformers takes for itself."""
_MOST_CHARACTERS = 10_000


def parse_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Arguments as a command line gives them.

    Args:
        texts: each `NAME=VALUE`; a value is read as JSON where it is JSON, and is a text otherwise.

    Returns:
        The values by their names.

    Raises:
        OptionError: one is not of that form, is given twice, or has a name that is not free.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, is_given, value = text.partition("=")
        if not is_given:
            raise OptionError(f"template-arg {text[:100]!r} has no value: write NAME=VALUE, as enable_thinking=false")
        if name in found:
            raise OptionError(f"template-arg {name!r} is given twice: give it once")
        found[name] = _value(value)
    return check_template_args(found)


def check_template_args(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments as a user of the library gives them; none where None.

    Raises:
        OptionError: a name is none or not free, or a value is none that JSON can hold.
    """
    for name, value in (given or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OptionError(f"template-arg {str(name)[:100]!r} is no name: give letters, digits and _")
        if _TAKEN.fullmatch(name):
            raise OptionError(f"template-arg {name!r} is what the program itself says to the template: leave it out")
        if not _is_json(value):
            raise OptionError(f"template-arg {name!r} is no value that JSON can hold: give a text, a number or a list")
    return dict(given or {})


def say_unused(given: Mapping[str, Any], processor: Any, notify: Callable[[str], None]) -> None:
    """Tell of the arguments that the model's chat template does not use: they change nothing.

    Args:
        given: values by their names.
        processor: a processor or a bare tokenizer of transformers.
        notify: called with one line for each.
    """
    if not given:
        return
    from prefixkv.models.pretrained import chat_template

    template = chat_template(processor)
    known = set() if template is None else _names(template)
    for name in given:
        if known is not None and name not in known:
            notify(f"the model's chat template does not use {name!r}: --template-arg {name} changes nothing")


def _names(template: str) -> set[str] | None:
    """The names that a chat template reads from what it is given, `messages` among them; None where it is broken."""
    import jinja2.meta

    from prefixkv.transformers_compat import parse_template

    try:
        return jinja2.meta.find_undeclared_variables(parse_template(template))
    except jinja2.TemplateError:
        return None


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    # A long number and deep nesting are no JSON that every program reads.
    except (ValueError, RecursionError):
        return text
    return value if _is_json(value) else text


def _is_json(value: Any) -> bool:
    try:
        return len(json.dumps(value, allow_nan=False)) <= _MOST_CHARACTERS
    except (ValueError, TypeError, RecursionError):
        return False
