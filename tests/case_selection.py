"""Which cases `make test` runs of tests that have more of them than a newcomer should wait for."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence


def spread(cases: Sequence[Mapping[str, Hashable]], keep: int) -> list[int]:
    """Choose cases that show as many different values of their parameters as so few can.

    Each choice is the first case that brings the most (parameter, value) pairs that no case chosen before it has.

    Args:
        cases: parameters of each case by name.
        keep: how many to choose.

    Returns:
        Indices of the chosen ones, ascending; all where there are no more than `keep`.
    """
    pairs = [set(case.items()) for case in cases]
    left, chosen, seen = list(range(len(cases))), [], set()
    for _ in range(min(keep, len(cases))):
        best = max(left, key=lambda index: len(pairs[index] - seen))
        left.remove(best)
        chosen.append(best)
        seen |= pairs[best]
    return sorted(chosen)
