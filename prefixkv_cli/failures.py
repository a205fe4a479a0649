"""What a failed run tells the user: one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import NamedTuple

from prefixkv.errors import DeviceMemoryError, PrefixKVError, is_out_of_memory

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Failure(NamedTuple):
    """How a run ends.

    Attributes:
        message: one line; empty where nothing needs to be said.
        exit_code: 1 known error, 2 usage, 3 budget cannot be met, 4 out of memory, 130 interrupted.
    """

    message: str
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception stands for."""
        if isinstance(error, PrefixKVError):
            return cls(_one_line(str(error)), error.exit_code)
        # Where typer is not loaded there are no errors of its own.
        typer = sys.modules.get("typer")
        if isinstance(error, KeyboardInterrupt) or (typer and isinstance(error, typer.Abort)):
            return cls("", INTERRUPTED)
        if typer and isinstance(error, typer.TyperException):
            return cls(_one_line(error.format_message()), error.exit_code)
        if is_out_of_memory(error):
            return cls(
                "out of memory: give a smaller --budget, a smaller model, or --dtype bfloat16",
                DeviceMemoryError.exit_code,
            )
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return cls("no space left on the disk: free some, or write somewhere else", PrefixKVError.exit_code)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            from prefixkv.schemas.field import shown_text

            return cls(
                f"{shown_text(os.fsdecode(error.filename))} cannot be used ({error.strerror}): check the path and your "
                "rights there",
                PrefixKVError.exit_code,
            )
        if isinstance(error, UnicodeEncodeError):
            return cls("a name or a text holds bytes that are no UTF-8: give it in UTF-8", PrefixKVError.exit_code)
        kind = type(error).__name__
        return cls(
            f"internal error: {_one_line(f'{kind}: {error}')[:300]} (run again as `prefixkv --debug ...` to see where)",
            PrefixKVError.exit_code,
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())
