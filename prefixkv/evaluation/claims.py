"""Which groups of samples are taken: every process takes the next one that nobody has. Knows nothing of torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefixkv.documents import refuse_link
from prefixkv.errors import PrefixKVError

FOLDER = "taken"


class Claims:
    """Files in a run's folder, one for each group that a process has taken; who makes the file has the group.

    A file serves processes that this program has started and those of a launcher alike, on one machine or on several
    that see the same folder.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is read or written yet.

        Args:
            folder: of the records.
        """
        self._path = folder / FOLDER

    def begin(self) -> None:
        """Forget what an earlier run has taken; one process does so, before any takes a group.

        Raises:
            PrefixKVError: the folder cannot be written.
        """
        self.end()
        try:
            self._path.mkdir()
        except OSError as error:
            raise PrefixKVError(f"{self._path} cannot be made: {error.strerror}") from None

    def end(self) -> None:
        """Leave nothing behind, when no process takes groups any more."""
        refuse_link(self._path)
        shutil.rmtree(self._path, ignore_errors=True)

    def take(self, groups: Sequence[range]) -> Iterator[range]:
        """Groups for this process, each taken when it is asked for.

        Args:
            groups: all that are to be measured, the same in every process.

        Raises:
            PrefixKVError: the folder is not the one in which the first process has begun, or cannot be written.
        """
        for group in groups:
            try:
                (self._path / str(group.start)).touch(exist_ok=False)
            except FileExistsError:
                continue
            except FileNotFoundError:
                raise PrefixKVError(
                    f"{self._path} is not there, which the first process has made: give --out a folder that all of "
                    "them see"
                ) from None
            except OSError as error:
                raise PrefixKVError(f"{self._path} cannot be written: {error.strerror}") from None
            yield group

    def taken(self) -> int:
        """How many groups are taken, by all processes."""
        return sum(1 for _ in self._path.iterdir())
