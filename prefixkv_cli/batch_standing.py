"""Where a batch stands: what is answered already, what is left, and the run that answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.profiles.config import PrefixConfig
from prefixkv.workers import Launch, seconds_since_start
from prefixkv_cli import output
from prefixkv_cli.batch_questions import Questions
from prefixkv_cli.batch_report import doing, say_how_far, say_what_is_there
from prefixkv_cli.progress_bar import progress_bar

if TYPE_CHECKING:
    from prefixkv.batch.cluster import Cluster
    from prefixkv.batch.lines import Line
    from prefixkv.batch.processes import Processes
    from prefixkv.batch.results import ResultFile
    from prefixkv.batch.run import Batch, Progress
    from prefixkv.batch.speed import Speed
    from prefixkv.children import Children
    from prefixkv.profiles.loading import Loading


class Standing:
    """The answers of a batch, there and to come.

    Attributes:
        lines: that this run is to answer.
        out: the file of answers; None for stdout.
        is_finished: whether all of them are answered.
        errors: records of those that met an error.
    """

    def __init__(self, questions: Questions, out: Path | None, limit: int | None, overwrite: bool) -> None:
        """Nothing is read yet.

        Args:
            questions: all that is asked.
            out: the file of answers; None for stdout.
            limit: answer the first so many lines only; all where None.
            overwrite: whether to begin anew.
        """
        self.lines, self.out, self.is_finished = questions.lines[:limit], out, False
        self.errors: list[dict[str, Any]] = []
        self._all, self._folder, self._overwrite = questions.lines, questions.folder, overwrite
        self._request: str | None = None
        self._results: ResultFile | None = None
        self._settings, self._startup_seconds = "", 0.0

    def look(self, launch: Launch, model: str, options: Mapping[str, Any]) -> None:
        """Find out without a model what is there, where the same command has been run before.

        Args:
            launch: how this process was started.
            model: as the user names it.
            options: of the command: all that may change an answer.

        Raises:
            PrefixKVError: the file of answers is of other settings, or none.
        """
        from prefixkv.batch.settings_memo import recall, request_digest

        if self.out is None or launch.count > 1:
            return
        self._request = request_digest(model, options)
        known = recall(self._request) if self._request and self.out.exists() and not self._overwrite else None
        if known is None:
            return
        records = self._open(known, launch)
        self.is_finished = all(line.number in records for line in self.lines)
        if self.is_finished:
            self._end(records)

    def answer(self, asked: Batch, loaded: Any, launch: Launch) -> Speed:
        """Answer what is left.

        Args:
            asked: the batch.
            loaded: the model.
            launch: how this process was started.

        Returns:
            How fast it was, of all processes.

        Raises:
            PrefixKVError: the file of answers is of other settings, or none, or cannot be written.
        """
        if isinstance(asked.budget, PrefixConfig):
            asked.budget.require_model(loaded.identity)
        settings = asked.settings(loaded)
        self._startup_seconds = seconds_since_start()
        if self._request is not None:
            from prefixkv.batch.settings_memo import remember

            remember(self._request, settings)
        if self.out is None:
            return self._stream(asked, loaded, settings)
        if self._results is not None and self._settings != settings:
            self._results.release()
            self._results = None
        if self._results is None:
            self._open(settings, launch)
        assert self._results is not None
        speed = self._run(asked, loaded, self._results, launch)
        if launch.is_main:
            self._end(self._results.gather(self._all))
        return speed

    def answer_on(self, cluster: Cluster | Processes, asked: Batch) -> Speed | None:
        """Answer what is left on the machines of a cluster, or by processes; each record is written as it comes.

        Args:
            cluster: that has joined, or processes that are started.
            asked: the batch.

        Returns:
            How fast it was, where that was measured.

        Raises:
            PrefixKVError: the file of answers is of other settings, or none, or cannot be written.
        """
        from prefixkv.batch.lines import repeated
        from prefixkv.batch.settings_memo import remember

        if self._results is None:
            settings = cluster.settings(asked)
            if self._request is not None:
                remember(self._request, settings)
            with Launch("cpu") as alone:
                self._open(settings, alone)
        assert self._results is not None
        done = repeated(self._all) | self._results.read()
        left = [line for line in self.lines if line.number not in done]
        by_number = {line.number: line for line in left}
        with progress_bar("answering", total=len(self.lines)) as update:
            update(completed=len(self.lines) - len(left))
            try:
                for ended, record in enumerate(cluster.records(asked, left) if left else (), start=1):
                    line = by_number[record["line"]]
                    own = {name: record[name] for name in record if name not in ("line", "id", "input", "settings")}
                    self._results.append(line, own)
                    update(completed=len(self.lines) - len(left) + ended)
            except KeyboardInterrupt:
                say_how_far(self._results, self.lines, 1)
                raise
        self._end(self._results.gather(self._all))
        return cluster.speed

    def _open(self, settings: str, launch: Launch) -> dict[int, dict[str, Any]]:
        """Take the file; the records that are there, in the process that reports."""
        from prefixkv.batch.results import ResultFile

        assert self.out is not None
        self._settings = settings
        self._results = ResultFile(self.out, settings, launch.number, self._folder)
        if not launch.is_main:
            return {}
        self._results.hold()
        if self._overwrite:
            self._results.remove()
        records = self._results.gather(self._all, retry=True)
        say_what_is_there(self._results, len(records), len(self._all))
        return records

    def _end(self, records: Mapping[int, dict[str, Any]]) -> None:
        # Lines behind the limit keep the answers that an earlier run gave them, and are not this run's matter.
        self.errors = [records[line.number] for line in self.lines if "error" in records[line.number]]
        assert self._results is not None
        self._results.release()

    def _run(self, asked: Batch, loaded: Any, results: ResultFile, launch: Launch) -> Speed:
        from prefixkv.batch.lines import repeated
        from prefixkv.batch.speed import ProcessSeconds, Speed

        launch.wait()
        # A line that asks what an earlier one asks has its answer in the end.
        done: dict[int, Any] = repeated(self._all) | results.read()
        launch.wait()
        before = sum(line.number in done for line in self.lines)
        done.update({line.number: None for line in self._all[len(self.lines) :]})
        with progress_bar("answering", total=len(self.lines), shown=launch.is_main) as update:
            update(completed=before)

            def show(state: Progress) -> None:
                # Only this process's own lines are seen here: each stands for one of every process.
                update(completed=before + state.ended * launch.count, note=doing(state))

            try:
                own = asked.run(loaded, results, done, launch.number, launch.count, show)
            except KeyboardInterrupt:
                if launch.is_main:
                    say_how_far(results, self.lines, launch.count)
                raise
        own.processes = [ProcessSeconds(self._startup_seconds, own.seconds, own.tokens)]
        launch.wait()
        return Speed.together(launch.gather([own]))

    def _stream(self, asked: Batch, loaded: Any, settings: str) -> Speed:
        from prefixkv.batch.lines import repeated
        from prefixkv.batch.result_stream import ResultStream
        from prefixkv.batch.speed import ProcessSeconds

        results = ResultStream(self.lines, settings, output.write_json)
        done: dict[int, Any] = {**repeated(self.lines)} | dict.fromkeys(_numbers(self._all[len(self.lines) :]))
        with progress_bar("answering", total=len(self.lines)) as update:
            speed = asked.run(
                loaded, results, done, progress=lambda state: update(completed=state.ended, note=doing(state))
            )
        speed.processes = [ProcessSeconds(self._startup_seconds, speed.seconds, speed.tokens)]
        self.errors = results.errors
        return speed


def others(ray: str | None, children: Children, loading: Loading, asked: Batch) -> Cluster | Processes:
    """Who answers instead of this process: the machines of the Ray cluster at an address, else these processes."""
    from prefixkv.batch.cluster import Cluster
    from prefixkv.batch.processes import Processes

    return Cluster(ray, loading) if ray is not None else Processes(children, loading, asked)


def _numbers(lines: Sequence[Line]) -> list[int]:
    return [line.number for line in lines]
