"""Text from outside, made harmless for a terminal: a control character is shown, not obeyed.

Models, web servers, file names and files bring text that may hold escape sequences, which move the cursor, rename the
window or write to the clipboard, and marks of direction, which show a name as another one.
"""

from __future__ import annotations

import re

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufff9-\ufffb]"
)
"""C0 but tab and line feed, C1, marks of direction, other line breaks, halves of pairs."""


def visible(text: str) -> str:
    r"""The text with `\x1b` for an escape character, and likewise for all others of its kind; tabs and lines stay."""
    return _HARMFUL.sub(lambda match: _escape(match[0], byte="x"), text)


def visible_json(text: str) -> str:
    r"""The same for the text of a JSON value, which reads back as what it was: `\u001b`."""
    return _HARMFUL.sub(lambda match: _escape(match[0], byte="u00"), text)


def _escape(character: str, byte: str) -> str:
    code = ord(character)
    return f"\\{byte}{code:02x}" if code < 256 else f"\\u{code:04x}"
