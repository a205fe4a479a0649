"""The lines of a batch answered by the machines of a Ray cluster; Ray schedules, retries and moves the lines.

The driver, where the command runs, holds the file of answers and loads no model. Every actor of the cluster loads
one and answers blocks of lines by an engine of its own, so that each line's answer is that of a single process.
A node that dies takes nothing along: Ray gives its lines to another, and the driver writes each line's record once.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefixkv.batch.lines import Line, lines_of_rows, repeated
from prefixkv.batch.result_stream import ResultStream
from prefixkv.batch.run import Batch
from prefixkv.batch.speed import Speed
from prefixkv.errors import PrefixKVError
from prefixkv.profiles.loading import Loading

BLOCK = 64
"""Most lines that an actor is given at a time: enough to fill the rows of an engine several times over."""
BLOCKS_PER_ACTOR = 4
"""So many at least, so that no actor idles while another has much left."""
MISSING = "this needs Ray: pip install 'prefixkv[ray]'"


class AnswerLines:
    """Answers rows of a dataset; for `Dataset.map_batches` in a pipeline of one's own, or in the one of `Cluster`.

    Rows have the fields of a batch's line as their columns (`prompt`, `image`, `max_new_tokens` and so on; null stands
    for a field that is not there). What comes out are the rows with `answer`, `prompt_tokens`, `new_tokens`,
    `finish_reason` and `error` beside.
    """

    def __init__(self, loading: Loading | str, asked: Batch) -> None:
        """Load the model.

        Args:
            loading: the model, or its name.
            asked: the budget, the method and all else that holds for every line; its own lines are not looked at.
        """
        self._loaded = (Loading(loading) if isinstance(loading, str) else loading).load()
        self._asked = asked
        self._settings = self._asked.settings(self._loaded)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Answer a block of rows.

        Args:
            rows: values by column, as many in each.

        Returns:
            The same with the columns of the answers.
        """
        columns = {name: list(values) for name, values in rows.items()}
        given = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        records = self._records(lines_of_rows(given))
        answers = ("answer", "prompt_tokens", "new_tokens", "finish_reason", "error")
        return columns | {name: [record.get(name) for record in records] for name in answers}

    def _records(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The records of lines, in their order."""
        found: dict[int, dict[str, Any]] = {}
        results = ResultStream(lines, self._settings, lambda record: found.update({record["line"]: dict(record)}))
        dataclasses.replace(self._asked, lines=lines).run(self._loaded, results, repeated(lines))
        return [found[line.number] for line in lines]


class _AnswerOwnLines(AnswerLines):
    """The same for lines and records as they are, pickled by this program on both sides."""

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        records = self._records([pickle.loads(bytes(line)) for line in rows["line"]])
        return {"record": [pickle.dumps(record) for record in records]}


class Cluster:
    """A Ray cluster: one that runs, or this machine alone; left at the end of the `with`.

    Attributes:
        speed: is not measured.
    """

    speed: Speed | None = None

    def __init__(self, address: str, loading: Loading) -> None:
        """Join it.

        Args:
            address: of the cluster's head, such as `auto` or `ray://head:10001`; `local` starts one on this machine.
            loading: the model.

        Raises:
            PrefixKVError: Ray is not installed, or there is no cluster at that address.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Where a node dies, Ray's own statistics die with it, and say so again and again.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        try:
            import ray
        except ImportError:
            raise PrefixKVError(MISSING) from None
        self._ray, self._loading, self._joined = ray, loading, not ray.is_initialized()
        if self._joined:
            try:
                ray.init(
                    None if address == "local" else address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address == "local" else None,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise PrefixKVError(
                    f"there is no Ray cluster at {address!r} ({error}): start one with `ray start --head`, or give "
                    "--ray local"
                ) from error

    def __enter__(self) -> Cluster:
        """Work on it."""
        return self

    def __exit__(self, *reason: object) -> None:
        """Leave it; one that was started for this ends."""
        if self._joined:
            self._ray.shutdown()

    def settings(self, asked: Batch) -> str:
        """Digest of all that answers depend on besides their lines, which takes the model to know."""
        task = self._ray.remote(num_gpus=self._gpus(), max_retries=-1)(_settings)
        return str(self._ray.get(task.remote(self._loading, _without_lines(asked))))

    def records(self, asked: Batch, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
        """Answer lines, in any order.

        Args:
            asked: how.
            lines: what.

        Yields:
            The record of each, when its block is answered.
        """
        from ray.data import ActorPoolStrategy, DataContext, from_items

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # More may come while nodes join.
        actors = self._actors()
        size = max(1, min(BLOCK, math.ceil(len(lines) / (actors * BLOCKS_PER_ACTOR))))
        rows = from_items([{"line": pickle.dumps(line)} for line in lines], override_num_blocks=-(-len(lines) // size))
        answered = rows.map_batches(
            _AnswerOwnLines,
            fn_constructor_args=(self._loading, _without_lines(asked)),
            batch_size=None,
            compute=ActorPoolStrategy(min_size=1),
            num_gpus=self._gpus() or None,
            num_cpus=None if self._gpus() else self._node_cpus(),
        )
        for row in answered.iter_rows():
            yield pickle.loads(row["record"])

    def _gpus(self) -> int:
        """Of each actor."""
        wanted = self._loading.device in ("auto", "cuda")
        return 1 if wanted and self._ray.cluster_resources().get("GPU") else 0

    def _actors(self) -> int:
        """How many the cluster has room for now: one for each GPU, or for each node where the CPU does the work."""
        gpus = int(self._ray.cluster_resources().get("GPU", 0))
        return max(1, gpus if self._gpus() else len(self._nodes()))

    def _node_cpus(self) -> int:
        """Of the smallest node that computes: with so many for an actor, each node has one."""
        return min(self._nodes(), default=1)

    def _nodes(self) -> list[int]:
        """Processors of each node that has some."""
        cpus = (int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"])
        return [count for count in cpus if count]


def _settings(loading: Loading, asked: Batch) -> str:
    return asked.settings(loading.load())


def _without_lines(asked: Batch) -> Batch:
    """What holds for every line; relative paths of pictures start from the same folder on every machine."""
    return dataclasses.replace(asked, lines=(), folder=asked.folder.resolve(), notify=Batch.notify)
