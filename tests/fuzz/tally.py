"""What became of the cases of one kind."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from prefixkv.errors import MOST_MESSAGE, PrefixKVError

SHOWN = 20


@dataclass
class Tally:
    """Counts of one kind.

    Attributes:
        taken: cases that were read or answered.
        refused: cases that ended in a PrefixKVError of one line.
        unexpected: all else, by what was raised and where.
        slowest_seconds: that one case took.
        most_bytes: of resident memory above what the process had before the first case.
    """

    taken: int = 0
    refused: int = 0
    unexpected: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    most_bytes: int = 0
    _baseline: int = field(default_factory=lambda: psutil.Process().memory_info().rss)

    @property
    def cases(self) -> int:
        """All of them."""
        return self.taken + self.refused + self.unexpected.total()

    def watch(self, case: Callable[[], Any]) -> None:
        """Run one case and note how it ended."""
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                case()
            self.taken += 1
        except PrefixKVError as error:
            text = str(error)
            if "\n" in text or len(text) > MOST_MESSAGE:
                self.unexpected[f"a message of {len(text)} characters: {text[:80]!r}"] += 1
            else:
                self.refused += 1
        except Exception as error:
            place = error.__traceback__
            while place is not None and place.tb_next is not None and "site-packages" not in _file(place.tb_next):
                place = place.tb_next
            where = "" if place is None else f" in {_file(place).rpartition('/')[2]}:{place.tb_lineno}"
            self.unexpected[f"{type(error).__name__}{where}: {str(error)[:120]}"] += 1
        self.slowest_seconds = max(self.slowest_seconds, time.perf_counter() - started)
        self.most_bytes = max(self.most_bytes, psutil.Process().memory_info().rss - self._baseline)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "cases": self.cases,
            "taken": self.taken,
            "refused": self.refused,
            "unexpected": self.unexpected.total(),
            "unexpected_kinds": dict(self.unexpected.most_common(SHOWN)),
            "slowest_seconds": round(self.slowest_seconds, 3),
            "most_mib_above_baseline": round(self.most_bytes / 2**20, 1),
        }


def _file(place: Any) -> str:
    name: str = place.tb_frame.f_code.co_filename
    return name
