"""A table for notebooks: values are shown as they are, whatever they hold."""

from __future__ import annotations

from collections.abc import Container, Sequence
from html import escape


def html_table(
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Container[tuple[int, int]] = (),
) -> str:
    """One HTML table; the first column is aligned to the left, figures to the right.

    Args:
        caption: what the table is of.
        headings: one for each column.
        rows: the cells' text, as many in each row as there are headings.
        bold: row and column, from 0, of each cell that stands out.
    """
    head = "".join(_cell("th", escape(text), number) for number, text in enumerate(headings))
    body = "".join(_row(row, [(line, column) in bold for column in range(len(row))]) for line, row in enumerate(rows))
    title = f'<caption style="text-align: left">{escape(caption)}</caption>'
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(row: Sequence[str], is_bold: Sequence[bool]) -> str:
    texts = (f"<b>{escape(text)}</b>" if bold else escape(text) for text, bold in zip(row, is_bold, strict=True))
    return f"<tr>{''.join(_cell('td', text, number) for number, text in enumerate(texts))}</tr>"


def _cell(tag: str, content: str, column: int) -> str:
    side = "right" if column else "left"
    return f'<{tag} style="text-align: {side}">{content}</{tag}>'
