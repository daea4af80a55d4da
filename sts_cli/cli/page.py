"""The report of sts batch: rows of this run as they pass, those of earlier runs at its end."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sts_cli.cli.options import OptionError
from sts_cli.cli.parsing import check_replaced
from sts_cli.inputs.images import Prepared, decode_ahead
from sts_cli.inputs.items import Input
from sts_cli.machine.packages import missing, to_add
from sts_cli.outputs.disk import replacing, write_errors
from sts_cli.outputs.journal import Journal
from sts_cli.outputs.keys import images_of
from sts_cli.outputs.settings import link_target
from sts_cli.outputs.stream import Stdout
from sts_cli.records import Answer, Item, KeptTokens, answer_row, printable
from sts_cli.report.console import milliseconds
from sts_cli.report.figures import Figures
from sts_cli.report.html import SIDE, Page, is_report

FEW, LARGER = 1000, 320  # rows up to which thumbnails are larger, and their longer side in pixels


def check_html(path: Path) -> None:
    """Raise OptionError if no report can be written there, or none without a library."""
    lacking = missing("html")
    if lacking:
        raise OptionError(f"--html needs {' and '.join(lacking)}; run: {to_add('html')}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"--html {path}: the name must end in .html.")
    check_replaced("--html", path, "report", is_report)


class BatchPage:
    """The report of a run at `path`; `folder` is where image names in the output start.

    Raises OutputError.
    """

    def __init__(self, path: Path, rows: Input, folder: Path, subtitle: str):
        self.path = link_target(path)
        self.rows, self.folder, self.subtitle = rows, folder, subtitle
        count = rows.count()
        side = SIDE if count is None or count > FEW else LARGER
        with write_errors(path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.page = Page(self.path.parent, side)
        self.figures = Figures()
        self._ahead: deque[tuple[Item, list[int]]] = deque()  # thumbnails of rows without answers
        self._numbers: dict[int, deque[int]] = {}  # rows of this run, by key

    def seen(self, prepared: Iterable[Prepared]) -> Iterator[Prepared]:
        """The items again, after their thumbnails were made."""
        for ready in prepared:
            self._ahead.append((ready.item, self._pictures(ready)))
            yield ready

    def add(self, answer: Answer, key: int) -> None:
        """Add the row of an answer; answers come in the order of the items that `seen` passed on.

        An interrupted run leaves some items without an answer.
        """
        item, pictures = self._ahead.popleft()
        while item is not answer.item:
            item, pictures = self._ahead.popleft()
        number = self._row(answer_row(answer), pictures, answer.kept or ())
        self._numbers.setdefault(key, deque()).append(number)

    def write(self, writer: Journal | Stdout, whole: bool) -> None:
        """Write the report, with the rows that earlier runs put into the closed output."""
        order = self._order(writer) if writer.before else None
        notes = [] if whole else ["The run was stopped: rows without an answer are not here yet."]
        if self.figures.earlier:
            notes.append(
                f"{self.figures.earlier:,} rows were answered by an earlier run. Which tokens they "
                "kept is not known any more, so they have no overlay."
            )
        with replacing(self.path) as file:
            self.page.write(
                file,
                title=f"sts batch {printable(self.rows.name)}",
                subtitle=self.subtitle,
                tiles=self.figures.tiles(),
                notes=notes,
                charts=self.figures.charts(),
                order=order,
            )
        self.page.close()

    def _order(self, writer: Journal | Stdout) -> Sequence[int]:
        """The numbers of all rows in the order of the output; rows of earlier runs are added."""
        numbers = array("q")
        waiting: deque[tuple[int, dict[str, Any]]] = deque()

        def items() -> Iterator[Item]:
            for key, row in writer.rows():
                mine = self._numbers.get(key)
                numbers.append(mine.popleft() if mine else -1)
                if numbers[-1] < 0:
                    waiting.append((len(numbers) - 1, row))
                    yield Item(str(row["id"]), images_in(row), folder=self.folder)

        for ready in decode_ahead(items()):
            place, row = waiting.popleft()
            numbers[place] = self._row(row, self._pictures(ready), earlier=True)
        return numbers

    def _pictures(self, ready: Prepared) -> list[int]:
        with write_errors(self.path):
            pairs = zip(ready.digests, ready.images, strict=True)
            return [self.page.picture(digest, image) for digest, image in pairs]

    def _row(
        self,
        row: Mapping[str, Any],
        pictures: Sequence[int],
        kept: Sequence[KeptTokens] = (),
        earlier: bool = False,
    ) -> int:
        self.figures.add(row, earlier)
        error, extra = row["error"], row.get("extra") or {}
        answers = [{"name": row.get("profile") or "answer", "text": row["answer"]}]
        if "full" in row:
            answers.append({"name": "off", "text": row["full"]["answer"]})
        with write_errors(self.path):
            return self.page.row(
                id=str(row["id"]),
                question=row.get("question") or "",
                answers=[] if error else answers,
                pictures=pictures,
                images=images_in(row),
                kept=kept,
                error=f"{error['kind']}: {error['message']}" if error else None,
                differs=row.get("agree") is False,
                kind=str(extra.get("kind", "")),
                expected=[str(one) for one in row.get("expected") or ()],
                facts=facts(row),
                earlier=earlier and not error,
            )


def images_in(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The images of an output row."""
    found = images_of({"image": None, **row})
    return (found,) if isinstance(found, str) else tuple(found or ())  # type: ignore[arg-type]


def facts(row: Mapping[str, Any]) -> list[str]:
    """The figures of a row in short."""
    found = []
    if row.get("tokens"):
        counts = (row["tokens"]["visual"], *row["tokens"]["left"])
        found.append(f"{' -> '.join(map(str, counts))} visual tokens")
    if row.get("seconds"):
        found.append(milliseconds(row["seconds"]["total"]))
    if row.get("speedup"):
        found.append(f"x{row['speedup']['total']:.2f} of its batch")
    return found
