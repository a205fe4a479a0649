"""What a batch says of itself: what was there before, how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.policy.budget import format_bytes
from prefixkv_cli import output

if TYPE_CHECKING:
    from prefixkv.batch.lines import Line
    from prefixkv.batch.results import ResultFile
    from prefixkv.batch.run import Progress
    from prefixkv.batch.speed import Speed


def say_what_is_there(results: ResultFile, answered: int, lines: int) -> None:
    """What an earlier run has left.

    Args:
        results: after a `gather`.
        answered: lines that have an answer.
        lines: of all.
    """
    if answered:
        output.notice(f"{answered} of {lines} lines are answered already in {results.path}")
    if results.retried:
        output.notice(f"lines that met an error, and are tried again: {results.retried}")
    if results.set_aside:
        output.notice(
            f"answers to lines that are no longer there, or whose pictures are others now: {results.set_aside}, kept "
            f"in {results.earlier_path}"
        )


def say_how_far(results: ResultFile, lines: Sequence[Line], processes: int) -> None:
    """After Ctrl-C: what is done, and how to go on."""
    # Other processes' records are in files of their own, to which they may still write.
    there = results.read() if processes == 1 else None
    far = "" if there is None else f"{sum(line.number in there for line in lines)} of {len(lines)} lines are done, "
    output.notice(f"stopped: {far}in {results.path}; the same command goes on from there")


def doing(state: Progress) -> str:
    """The live line's middle, such as `12 running, 310 tokens/s, cache 40 MiB of 52 MiB, shared 8 MiB`."""
    speed = state.tokens / state.seconds if state.seconds else 0.0
    sizes = f"{format_bytes(state.used_bytes)} of {format_bytes(state.reserved_bytes)}"
    shared = f", shared {format_bytes(state.prefix_bytes)}" if state.prefix_bytes else ""
    return f"{state.running} running, {speed:,.0f} tokens/s, cache {sizes}{shared}"


def report(
    out: str | Path | None, lines: Sequence[Line], errors: Sequence[dict[str, Any]], speed: Speed, json: bool
) -> None:
    """What the whole has come to.

    Args:
        out: where the answers are, as the user named it; None where they went to stdout.
        lines: that were to be answered.
        errors: their records, of those that met one.
        speed: what was measured.
        json: whether to print it as JSON, too.
    """
    warnings = output.take_notices()
    for record in errors[:5]:
        output.notice(f"line {record['line']}: {record['error']}")
    if len(errors) > 5:
        output.notice(f"and {len(errors) - 5} more lines with errors")
    place = "" if out is None else f" are in {out}"
    output.notice(f"{len(lines) - len(errors)} answers and {len(errors)} errors{place}")
    measured = speed.as_dict()
    if measured["tokens_per_second"] is not None:
        output.notice(_spoken(measured))
    if len(speed.processes) > 1:
        output.notice(
            "processes: "
            + "; ".join(
                f"{each.startup_seconds:.1f} s to start and {each.seconds:.1f} s of work" for each in speed.processes
            )
        )
    if json:
        answers = {"answers": len(lines) - len(errors), "errors": [record["line"] for record in errors]}
        output.write_document(
            "batch", {"out": str(out)} | answers | {"speed": measured} | ({"warnings": warnings} if warnings else {})
        )


def _spoken(speed: dict[str, Any]) -> str:
    """One line of what was measured: the median, and what 90 and 99 % are within."""
    said = f"{speed['tokens_per_second']:,.1f} tokens/s"
    for name, unit, scale in (
        ("first_token_seconds", "s to the first token", 1),
        ("token_seconds", "ms a token", 1000),
    ):
        if found := speed[name]:
            said += "; " + " / ".join(f"{value * scale:.3g}" for value in found.values()) + f" {unit}"
    return said + (" (median / 90 % / 99 %)" if speed["first_token_seconds"] else "")
