"""The end of a run of sts batch: its summary, what it wrote, what to do next, the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sts_cli.cli.run import Job, Outcome
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.packed import Packed, rows_file
from sts_cli.outputs.shards import Shards
from sts_cli.outputs.stream import Stdout
from sts_cli.report.console import Report
from sts_cli.report.visible import in_line

GATE_MISSED, INTERRUPTED = 3, 130  # exit codes


def end(
    job: Job,
    out: Path | None,
    writer: Journal | Stdout | Shards,
    report: Report,
    outcome: Outcome,
    gate: float | None,
) -> int:
    """Tell how the run ended; the exit code. `gate` is the least agreement that was asked for."""
    console, quiet = report.console, report.quiet
    report.summary(outcome.notes)
    if report.errors["image_missing"] and not quiet and (place := job.rows.named_from) is not None:
        start = place.resolve()
        console.print(f"Relative names of images start in {start}; --images FOLDER changes that.")
    answered = report.answered + report.errors.total()
    if not quiet and outcome.failure is None:
        for sentence in written(job, out if answered else None, writer, outcome.whole):
            console.print(sentence)
    if outcome.failure is not None:
        console.print(f"sts: {outcome.failure}", style="red", markup=False)
        if out is not None:
            console.print("All answers so far are saved; run the same command again to go on.")
        return 1
    if outcome.stopped is not None and outcome.stopped.problem is not None:
        item, problem = outcome.stopped.item, outcome.stopped.problem
        console.print(
            f"sts: stopped at row {in_line(item.id)}: {problem.kind}: {problem.message}",
            style="red",
        )
        if out is not None and not quiet:
            console.print(
                "Run the same command again to go on behind it, or with --retry-errors to answer "
                "it again."
            )
        return 1
    if not outcome.whole:
        if not quiet and (out is not None or job.sidecars is not None):
            console.print("Stopped; run the same command again to continue.", style="yellow")
        return INTERRUPTED
    agreed, compared = report.agreed + writer.agreed[0], report.compared + writer.agreed[1]
    if gate is not None and agreed / max(1, compared) < gate:
        text = f"sts: {agreed} of {compared} answers agree, less than {gate:g}"
        console.print(text, style="red", markup=False)
        return GATE_MISSED
    if report.errors or writer.errors:
        return 1
    return 0


def written(
    job: Job, out: Path | None, writer: Journal | Stdout | Shards, whole: bool
) -> Iterator[str]:
    """A sentence for each output of a run."""
    if out is not None and whole:
        yield f"Wrote {out}."
    elif out is not None and isinstance(writer, Packed):
        yield f"Wrote {rows_file(out)}; it becomes {out.name} when every row is answered."
    elif out is not None:
        yield f"Wrote {out}, not all of it."
    if job.sidecars is not None:
        yield f"Wrote {job.sidecars.written} text files beside the images."
    if job.overlays is not None:
        yield f"Wrote {job.overlays.written} overlays in {job.overlays.folder}."
    if job.page is not None:
        yield f"Wrote {job.page.path}."
