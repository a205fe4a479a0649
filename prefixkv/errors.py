"""The errors that prefixkv raises on purpose: each text says what was given, what is allowed, what to do."""

from __future__ import annotations

import sys

MOST_MESSAGE = 1000
"""Characters of an error's text."""


class PrefixKVError(Exception):
    """A known problem that the user can mend; `exit_code` is what the command line returns."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        """Say it.

        Args:
            message: one line. Names and values of the user's and of files are part of it, so that one that is longer
                than `MOST_MESSAGE` characters is cut in its middle: what is wrong comes first, what to do last.
        """
        if len(message) > MOST_MESSAGE:
            half = MOST_MESSAGE // 2 - 2
            message = f"{message[:half]}...{message[-half:]}"
        super().__init__(message)


class OptionError(PrefixKVError):
    """An option or argument has a value that is not allowed."""

    exit_code = 2


class BudgetTooSmallError(PrefixKVError):
    """The budget cannot hold the entries that the method must protect in every layer."""

    exit_code = 3


class PictureTooLargeError(PrefixKVError):
    """A picture has more pixels or bytes than are read."""


OUT_OF_MEMORY = "ran out of memory"
"""By these words a line of a batch is known whose answer found no memory."""


class DeviceMemoryError(PrefixKVError):
    """The device ran out of memory."""

    exit_code = 4


class EngineLostError(PrefixKVError):
    """The process that has the model has ended."""


def reason(error: Exception) -> str:
    """What an exception says, in one line; one that is none of ours has its kind before it.

    Args:
        error: of anything that a request or a line of a batch may meet.
    """
    if isinstance(error, PrefixKVError):
        return str(error)
    if is_out_of_memory(error):
        return f"this machine {OUT_OF_MEMORY}: give a smaller --budget, a smaller image or a shorter answer"
    return f"internal error: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device, or the host, has no memory left.

    Args:
        error: of torch, of Python, or one of ours.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, (MemoryError, DeviceMemoryError)) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
