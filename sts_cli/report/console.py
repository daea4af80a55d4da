"""Progress, one line per item, and a summary: messages for people, on standard error."""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from time import monotonic, time
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from sts_cli.profile import Escalate
from sts_cli.records import Answer, TokenCounts
from sts_cli.report.intervals import SpeedUps, p95, speedups
from sts_cli.report.visible import in_line, visible, visible_json

PERIOD = 30.0  # seconds between lines of progress
LEVELS = {"red": "error", "yellow": "warning"}  # by the colour of a message


class Screen(Console):
    """All output for people: text is shown as it is, and cannot steer the terminal.

    No markup and no emoji codes, because ids and answers contain brackets and colons. Control
    characters are replaced before text is measured; `render` sees everything that is printed.
    """

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for part in super().render(renderable, options):
            yield part if part.control else part._replace(text=visible(part.text))


class Printer(Screen):
    """Messages on standard output; rich would exit at a closed pipe, so `while_read` handles it."""

    def on_broken_pipe(self) -> None:
        raise


class Log(Screen):
    """Standard error for programs: one JSON object a line, with an `event`."""

    def __init__(self) -> None:
        super().__init__(stderr=True, soft_wrap=True, force_terminal=False)

    def print(self, *objects: Any, style: Any = None, **options: Any) -> None:
        with self.capture() as said:
            super().print(*objects, **options)
        self.event("message", level=LEVELS.get(style, "info"), text=said.get().rstrip("\n"))

    def event(self, name: str, **facts: Any) -> None:
        """Write one line; `at` is the time in seconds since 1970."""
        self.file.write(visible_json(json.dumps({"event": name, "at": time(), **facts})) + "\n")
        self.file.flush()


def stdout(soft_wrap: bool = False) -> Console:
    """Standard output for people, not for programs; 80 columns if it is no terminal."""
    return Printer(soft_wrap=soft_wrap)


def stderr() -> Console:
    """Standard error: colour and movement on a terminal only, and not under NO_COLOR."""
    return Screen(stderr=True, soft_wrap=True)


def stream(piece: str, shown: Callable[[str], str] = visible) -> None:
    """Write a piece of data to standard output at once; a terminal gets `shown` of it."""
    sys.stdout.write(shown(piece) if sys.stdout.isatty() else piece)
    sys.stdout.flush()


class Report:
    """The report of a run: `item` for every answer, `summary` at the end.

    Entered when the model is loaded: rates and the time left count from then. With `lines`, each
    answer is a line on the console; on `screen`, lines are the output, also of a quiet run. The
    progress is a bar, lines or none.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        *,
        quiet: bool = False,
        lines: bool = True,
        screen: Console | None = None,
        progress: str = "lines",
        escalate: Escalate | None = None,
        clock: Callable[[], float] = monotonic,
    ):
        self.console, self.quiet, self.clock = console, quiet, clock
        self.log = console if isinstance(console, Log) else None
        self.lines = screen is not None or lines and not quiet
        self.screen = screen or console
        self.total, self.periodic = total, progress == "lines" and not quiet
        self.escalate = escalate
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.seconds, self.average, self.share = array("d"), array("d"), array("d")
        self.escalated = Counter[str]()  # answers, by the profile that gave them
        self.doubtful = 0  # answers that were not certain, but stay
        self.speedups = SpeedUps()
        self.compared = self.agreed = 0
        self.started = self.told = clock()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or progress != "bar",
            get_time=clock,
        )
        self._task = self.progress.add_task("answering", start=False, total=total, rate="")

    def __enter__(self) -> Report:
        self.started = self.told = self.clock()
        self.progress.start_task(self._task)
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def count_from(self, seconds: float) -> None:
        """Count rates and the time left from so many seconds ago, and not from the entry."""
        self.started = self.told = self.clock() - seconds

    @property
    def rate(self) -> float:
        """Items a second since the start."""
        passed = self.clock() - self.started
        return (self.answered + self.errors.total()) / passed if passed > 0 else 0.0

    @property
    def agreement(self) -> float | None:
        """Share of compared answers that agree; None if nothing was compared."""
        return self.agreed / self.compared if self.compared else None

    def item(self, answer: Answer) -> None:
        """Count an answer and show its line, after its notes."""
        for sentence in () if self.quiet else answer.notes:
            self.console.print(sentence, style="yellow")
        if answer.problem is not None:
            self.errors[answer.problem.kind] += 1
        else:
            self.answered += 1
            assert answer.seconds is not None and answer.tokens is not None
            self.seconds.append(answer.seconds.total)
            self.average.append(answer.tokens.average)
            self.share.append(answer.tokens.average / max(1, answer.tokens.visual))
            if answer.escalated is not None:
                self.escalated[answer.profile] += 1
            elif self.escalate is not None:
                self.doubtful += self.escalate.doubts(answer.certainty)
        if answer.comparison is not None:
            assert answer.seconds is not None
            told = answer.comparison
            self.speedups.add(answer.seconds.prefill, told.speedup_prefill, told.speedup_total)
            self.compared += 1
            self.agreed += answer.comparison.agree
        self.progress.update(self._task, advance=1, rate=f"{self.rate:.2f}/s")
        if self.log is not None:
            self.log.event("row", **row_facts(answer))
        elif self.lines:
            whole = answer.problem is not None and not self.screen.is_terminal  # for logs
            width = None if whole else self.screen.width
            self.screen.print(line(answer, width), no_wrap=True)
        if self.periodic and self.clock() - self.told >= PERIOD:
            self.told = self.clock()
            self.pass_on()

    def pass_on(self) -> None:
        """A line of progress."""
        done, rate = self.answered + self.errors.total(), self.rate
        left = None if self.total is None else max(0, self.total - done) / rate
        if self.log is not None:
            self.log.event("progress", done=done, total=self.total, rate=rate, seconds_left=left)
            return
        total = "" if self.total is None else f" of {self.total}"
        about = "" if left is None else f", about {duration(left)} left"
        self.console.print(f"{done}{total} rows, {rate:.2f}/s{about}", style="dim")

    def summary(self, notes: Sequence[str] = ()) -> None:
        """The run in a few lines."""
        passed = self.clock() - self.started
        if self.log is not None:
            self.log.event(
                "summary",
                answered=self.answered,
                errors=dict(self.errors),
                seconds=passed,
                compared=self.compared,
                agreed=self.agreed,
                escalated=dict(self.escalated),
                notes=list(notes),
            )
            return
        if self.quiet:
            return
        parts = [f"{self.answered} answered"]
        if self.errors:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.errors.most_common())
            parts.append(f"{self.errors.total()} with errors ({kinds})")
        if self.answered or self.errors:
            parts.append(f"{passed:.1f} s, {self.rate:.2f} items/s")
        parts += notes
        self.console.print("; ".join(parts), style="bold")
        if self.seconds:
            middle, slow = median(self.seconds), p95(self.seconds)
            average = sum(self.average) / len(self.average)
            share = sum(self.share) / len(self.share)
            self.console.print(
                f"time: p50 {milliseconds(middle)}, p95 {milliseconds(slow)}; "
                f"visual tokens kept: {average:.1f} on average ({share:.1%})"
            )
        if self.escalate is not None:
            stay = f"; {self.doubtful} more are not certain" if self.doubtful else ""
            self.console.print(escalations(self.escalated, self.answered) + stay)
        if self.agreement is not None:
            self.console.print(
                f"against no pruning: {self.agreed} of {self.compared} answers agree "
                f"({self.agreement:.1%})\n{speedups(self.speedups.batches)}"
            )


def row_facts(answer: Answer) -> dict[str, Any]:
    """An answer's line for programs."""
    problem, seconds = answer.problem, answer.seconds
    return {
        "id": answer.item.id,
        "error": None if problem is None else {"kind": problem.kind, "message": problem.message},
        "seconds": None if seconds is None else seconds.total,
    }


def duration(seconds: float) -> str:
    """Hours and minutes, minutes, or seconds."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 100 else f"{minutes} min"


def escalations(escalated: Counter[str], answered: int) -> str:
    """`escalated: 12 of 500 (2.4%), 10 to balanced, 2 to off`: the profiles that answered."""
    count = escalated.total()
    each = ", ".join(f"{times} to {name}" for name, times in escalated.most_common())
    return f"escalated: {count} of {answered} ({count / max(1, answered):.1%})" + (
        f" to {next(iter(escalated))}" if len(escalated) == 1 else f", {each}" if each else ""
    )


def line(answer: Answer, width: int | None) -> Text:
    """One item on one line, of at most `width` columns if there is a width."""
    shown = Text()
    if answer.problem is not None:
        shown.append("x ", "red").append(f"{in_line(answer.item.id)}  ", "bold")
        shown.append(f"{answer.problem.kind}: {in_line(answer.problem.message)}")
    else:
        assert answer.seconds is not None and answer.tokens is not None
        shown.append(f"{in_line(answer.item.id)}  ", "bold")
        shown.append(f"{counts(answer.tokens)}  ", "dim")
        shown.append(f"{milliseconds(answer.seconds.total)}  ", "cyan")
        if answer.comparison is not None:
            shown.append(f"x{answer.comparison.speedup_total:.2f} ", "cyan")
        if answer.comparison is None:
            shown.append(short(answer))
        elif answer.comparison.agree:
            shown.append("= ", "green").append(short(answer))
        else:
            room = None if width is None else width - shown.cell_len - len(" (off: )")
            ours, full = apart(short(answer), short(answer.comparison.full), room)
            shown.append(ours).append(f" (off: {full})", "yellow")
    if width is not None:
        shown.truncate(width, overflow="ellipsis")
    return shown


def apart(one: str, other: str, room: int | None) -> tuple[str, str]:
    """Two texts that differ, cut so that both are seen in `room` columns.

    Long ones begin with the first word that differs.
    """
    if room is None or cell_len(one) + cell_len(other) <= room:
        return one, other
    same = os.path.commonprefix([one, other]).rfind(" ") + 1
    half = max(1, room // 2)
    texts = [Text(f"…{text[same:]}" if same > 1 else text) for text in (one, other)]
    for text in texts:
        text.truncate(half, overflow="ellipsis")
    return texts[0].plain, texts[1].plain


def short(answer: Answer) -> str:
    """The text of an answer on one line."""
    return " ".join(visible(answer.text or "").split())


def counts(tokens: TokenCounts) -> str:
    """`576 -> 96 -> 32`: visual tokens from the encoder, and after each cut."""
    return " -> ".join(str(count) for count in (tokens.visual, *tokens.left))


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
