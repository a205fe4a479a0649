"""The frame that all pages share: one HTML file with everything in it, which may load nothing from elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from prefixkv.documents import write_whole
from prefixkv.errors import OptionError, PrefixKVError

SUFFIX = ".html"
TEMPLATE = "plotly_white"
"""Plotly's look of all figures."""
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'"
)
"""What a browser lets the page do: run what is written in it, and nothing else."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1f2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { color: #5a6270; padding-bottom: .4rem; }
th, td { border-bottom: 1px solid #d9dde5; padding: .25rem .75rem; vertical-align: top; }
p.note { color: #5a6270; margin: .3rem 0; } .wide { overflow-x: auto; }
.text td:not(:last-child) { white-space: nowrap; } .text :last-child:is(td, th) { text-align: left !important; }
"""


def check_report(path: Path | None) -> None:
    """Refuse a page that could not be made, before anything is measured for it.

    Raises:
        OptionError: the file's name does not end in .html.
        PrefixKVError: Plotly is not installed.
    """
    if path is None:
        return
    if path.suffix.lower() != SUFFIX:
        raise OptionError(f"report {str(path)!r} would be no page: give a name that ends in {SUFFIX}")
    if importlib.util.find_spec("plotly") is None:
        raise PrefixKVError("pages need Plotly, which is not installed: pip install 'prefixkv[report]'")


def write_page(path: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page; an older file is replaced only by a whole one.

    Args:
        path: ends in .html; folders are made.
        title: what the page is about, as text.
        parts: HTML, one below the other: figures, tables, headings, notes.

    Raises:
        PrefixKVError: the place cannot be written, or is a link.
    """
    from plotly.offline import get_plotlyjs

    content = "\n".join(parts)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{content}\n</body>\n</html>\n"
    )
    # A half of a surrogate pair, which a model's answer may hold, is no character.
    write_whole(path, page.encode("utf-8", errors="replace"))


def figure(drawn: Any, name: str, script: str = "") -> str:
    """A figure as a part of a page.

    Args:
        drawn: Plotly's figure, with its height in its layout.
        name: of the element that holds it; one of its own on each page.
        script: JavaScript that runs once it is drawn; `{plot_id}` stands for the name.
    """
    height = f"{drawn.layout.height}px"
    return drawn.to_html(
        full_html=False,
        include_plotlyjs=False,
        auto_play=False,
        div_id=name,
        default_height=height,
        post_script=script or None,
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False},
    )


def heading(text: str) -> str:
    """The title of a section."""
    return f"<h2>{escape(text)}</h2>"


def notes(lines: Sequence[str]) -> str:
    """What a reader should know, one paragraph a line."""
    return "\n".join(f'<p class="note">{escape(line)}</p>' for line in lines)


def wide(table: str, ends_in_text: bool = False) -> str:
    """A table that may be wider than the screen.

    Args:
        table: HTML.
        ends_in_text: whether the last column holds sentences, which are broken into lines and begin on the left.
    """
    return f'<div class="wide{" text" if ends_in_text else ""}">{table}</div>'
