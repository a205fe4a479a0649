"""Sizes of memory as a user gives them: one for all caches together, or one for each device. Knows nothing of torch."""

from __future__ import annotations

from prefixkv.errors import OptionError
from prefixkv.policy.budget import Budget


def parse_sizes(asked: str | int) -> tuple[int, ...]:
    """Read one size or several.

    Args:
        asked: such as `"4GiB"` or `"20GB,10GB"`, or a number of bytes.

    Returns:
        Each size in bytes, in the order given.

    Raises:
        OptionError: a part is no size.
    """
    if isinstance(asked, int):
        if asked < 1:
            raise OptionError(f"memory {asked} is no size: give 1 byte or more")
        return (asked,)
    sizes = []
    for part in asked.split(","):
        try:
            size = Budget.parse(part)
        except OptionError:
            size = None
        if size is None or size.kind != "bytes":
            raise OptionError(
                f"memory {asked!r} is no size: give one such as 4GiB, or one for each device such as 20GB,10GB"
            )
        sizes.append(int(size.amount))
    return tuple(sizes)
