"""What is kept of a conversation's pictures as a file: a picture or a page, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefixkv.errors import OptionError
from prefixkv_cli import output
from prefixkv_cli.reports.page import SUFFIX, check_report

if TYPE_CHECKING:
    from prefixkv.chat.conversation import Conversation

PICTURE_SUFFIX = ".png"


def check_kept_file(path: Path | None) -> None:
    """Refuse a file that could not be made, before a model is loaded for it.

    Raises:
        OptionError: its name ends in neither .png nor .html.
        PrefixKVError: a page is asked for, and Plotly is not installed.
    """
    if path is None or path.suffix.lower() == PICTURE_SUFFIX:
        return
    if path.suffix.lower() != SUFFIX:
        raise OptionError(f"file {str(path)!r} cannot be written: give a name that ends in .png or .html")
    check_report(path)


def write_kept_file(conversation: Conversation, path: Path) -> None:
    """Write which patches of its pictures every layer keeps, and say so.

    Args:
        conversation: between two answers.
        path: a .png file, or a .html file, for which the last question is asked again under other budgets.

    Raises:
        OptionError: its name ends in neither.
        PrefixKVError: there is no picture, the file cannot be written, or Plotly is not installed.
    """
    check_kept_file(path)
    if path.suffix.lower() == SUFFIX:
        from prefixkv_cli.reports.kept_page import write_kept

        write_kept(conversation, path)
        output.notice(f"wrote {path}")
    else:
        from prefixkv_cli.plots.kept_plot import draw_kept

        draw_kept(conversation, path)
        output.notice(f"drew {path}")
