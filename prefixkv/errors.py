"""The errors that prefixkv raises on purpose: each text says what was given, what is allowed, what to do."""

from __future__ import annotations


class PrefixKVError(Exception):
    """A known problem that the user can mend; `exit_code` is what the command line returns."""

    exit_code = 1


class OptionError(PrefixKVError):
    """An option or argument has a value that is not allowed."""

    exit_code = 2


class BudgetTooSmallError(PrefixKVError):
    """The budget cannot hold the entries that the method must protect in every layer."""

    exit_code = 3


class PictureTooLargeError(PrefixKVError):
    """A picture has more pixels or bytes than are read."""


class DeviceMemoryError(PrefixKVError):
    """The device ran out of memory."""

    exit_code = 4
