"""The run of a batch: rows that need an answer go in, answers go out as soon as they are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

from sts_cli.answering.request import Request
from sts_cli.cli.interrupt import Interruption
from sts_cli.cli.page import BatchPage
from sts_cli.errors import OutputError, StsError
from sts_cli.inputs.items import Input
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.overlays import Overlays
from sts_cli.outputs.sidecar import Sidecars
from sts_cli.outputs.stream import Nowhere, Stdout
from sts_cli.records import Answer, Item
from sts_cli.report.console import Report

if TYPE_CHECKING:
    from sts_cli.library import Model


@dataclass(frozen=True, slots=True)
class Job:
    """The rows to answer, and the request that they are answered with."""

    rows: Input
    limit: int | None
    part: tuple[int, int]  # of the rows: the i-th of n
    request: Request
    sidecars: Sidecars | None
    overlays: Overlays | None
    page: BatchPage | None
    stop_on_error: bool
    quiet: bool

    def total(self, before: int) -> int | None:
        """The number of rows to answer beside those of `before`, as far as a quick look tells."""
        count = self.rows.count()
        if count is None:
            return None
        part, parts = self.part
        mine = (count - part) // parts + 1
        return max(0, min(mine, self.limit or mine) - before)


class Unanswered:
    """The items of a job that no earlier run answered; every item is read once."""

    def __init__(self, job: Job, writer: Journal | Stdout):
        self.answered = 0  # items that were answered, as far as was read
        self._items = self._read(job, writer)

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def ahead(self) -> Iterator[Item]:
        """The next item, if there is one; it stays the next."""
        for item in self._items:
            self._items = chain([item], self._items)
            yield item
            return

    def _read(self, job: Job, writer: Journal | Stdout) -> Iterator[Item]:
        only_sidecars = job.sidecars if isinstance(writer, Nowhere) else None
        for item in job.rows.items(job.limit, job.part):
            if writer.take(item) or only_sidecars is not None and only_sidecars.stays(item):
                self.answered += 1
            else:
                yield item


@dataclass(slots=True)
class Outcome:
    """The end of a run."""

    whole: bool = False  # every row was read and answered
    failure: StsError | None = None
    stopped: Answer | None = None  # the row with an error that ended the run
    before: int = 0  # rows that an earlier run had answered
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        before = [f"{self.before} answered before"] if self.before else []
        return before + [f"passed over: {count} {reason}" for reason, count in self.skipped.items()]


def run_job(
    job: Job, vlm: Model, unanswered: Unanswered, writer: Journal | Stdout, report: Report
) -> Outcome:
    """Answer all rows that have no answer; every answer is written before the next batch."""
    from sts_cli.inputs.images import decode_ahead

    outcome = Outcome()
    try:
        with report, Interruption(job.quiet) as stop:
            ready = decode_ahead(unanswered)
            if job.page is not None:
                ready = job.page.seen(ready)
            for answer in vlm.answers(
                ready, job.request, stop=lambda: stop.asked or outcome.stopped is not None
            ):
                if job.sidecars is not None:
                    job.sidecars.write(answer)
                if job.overlays is not None:
                    job.overlays.write(answer)
                if job.page is not None:
                    job.page.add(answer, writer.form.key(answer.item))
                writer.append(answer)
                report.item(answer)
                if job.stop_on_error and answer.problem is not None and outcome.stopped is None:
                    outcome.stopped = answer
            outcome.whole = not stop.asked and outcome.stopped is None
    except KeyboardInterrupt:
        pass
    except OutputError as error:
        outcome.failure = error
    outcome.before = unanswered.answered
    return finish(job, writer, outcome)


def finish(job: Job, writer: Journal | Stdout, outcome: Outcome) -> Outcome:
    """Put what was answered on disk, in the order of the input if that is all of it."""
    outcome.skipped = dict(job.rows.skipped)
    if job.overlays is not None and job.overlays.missing:
        outcome.skipped["overlays whose image is gone"] = job.overlays.missing
    try:
        order = () if job.rows.kind == "stdin" else None  # another stdin may hold other rows
        writer.close(outcome.whole, order, limited=job.limit is not None)
    except OutputError as error:
        outcome.failure = outcome.failure or error
    if job.page is not None:
        try:
            job.page.write(writer, outcome.whole and outcome.failure is None)
        except OutputError as error:
            outcome.failure = outcome.failure or error
    return outcome
