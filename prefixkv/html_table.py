"""A table for notebooks: values are shown as they are, whatever they hold."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One HTML table; the first column is aligned to the left, figures to the right.

    Args:
        caption: what the table is of.
        headings: one for each column.
        rows: the cells' text, as many in each row as there are headings.
    """
    head = "".join(_cell("th", text, number) for number, text in enumerate(headings))
    body = "".join(f"<tr>{''.join(_cell('td', text, number) for number, text in enumerate(row))}</tr>" for row in rows)
    title = f'<caption style="text-align: left">{escape(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(tag: str, text: str, column: int) -> str:
    side = "right" if column else "left"
    return f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'
