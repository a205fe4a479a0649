"""Which line and exit code an exception becomes."""

from __future__ import annotations

import errno

import pytest
import torch
import typer

from prefixkv.errors import BudgetTooSmallError, DeviceMemoryError, OptionError, PrefixKVError
from prefixkv_cli.failures import Failure


@pytest.mark.parametrize(
    ("error", "exit_code", "says"),
    [
        (PrefixKVError("two\nlines"), 1, "two lines"),
        (OptionError("bad"), 2, "bad"),
        (BudgetTooSmallError("small"), 3, "small"),
        (DeviceMemoryError("full"), 4, "full"),
        (typer.BadParameter("bad"), 2, "bad"),
        (torch.OutOfMemoryError("CUDA out of memory"), 4, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 4, "out of memory"),
        (MemoryError(), 4, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300),
            1,
            "xx... cannot be used (File name too long): check",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", b"a\xe9/b"),
            1,
            "a?/b cannot be used (Not a directory): check",
        ),
        (UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "surrogates not allowed"), 1, "no UTF-8: give it in UTF-8"),
        (KeyboardInterrupt(), 130, ""),
        (typer.Abort(), 130, ""),
        (ZeroDivisionError("by\nzero"), 1, "internal error: ZeroDivisionError: by zero"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_error_becomes_one_line_and_its_exit_code(error: BaseException, exit_code: int, says: str) -> None:
    failure = Failure.of(error)
    assert failure.exit_code == exit_code
    assert says in failure.message
    assert "\n" not in failure.message
