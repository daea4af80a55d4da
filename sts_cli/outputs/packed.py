"""A Parquet file as output: it is written at the end; until then, a journal stands beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import replacing, write_errors
from sts_cli.outputs.formats import Format
from sts_cli.outputs.journal import Journal, has_content
from sts_cli.outputs.jsonl import JsonLines
from sts_cli.outputs.keys import images_of, key
from sts_cli.outputs.lock import Lock
from sts_cli.outputs.parquet import rows_in, run_of, write
from sts_cli.outputs.scan import read
from sts_cli.outputs.settings import (
    FRESH,
    difference,
    link_target,
    read_settings,
    run_file,
    write_settings,
)
from sts_cli.records import Answer, Item


class Rows(JsonLines):
    """The rows of a table that is not written yet."""

    name = "parquet"


class Packed(Journal):
    """Answers in the Parquet file `table`.

    A run writes its rows to the journal `NAME.jsonl` beside it. When every row is answered, they
    become the table, which replaces an earlier one at once, and the journal goes. A table that is
    continued becomes a journal first. As long as there is a journal, it counts, and not the table.
    Raises OutputError.
    """

    def __init__(
        self, path: Path, run: Mapping[str, Any], *, fresh: bool = False, retry: bool = False
    ):
        self.table = link_target(path)
        self._news = False  # True once a row was added
        check_table(self.table)
        with write_errors(path):
            self.table.parent.mkdir(parents=True, exist_ok=True)
        journal = rows_file(self.table)
        with contextlib.ExitStack() as held:
            held.enter_context(Lock(self.table))
            if fresh and whole(journal, run):  # such a run ended before it wrote its table
                fresh = False
            self._unpacked = not fresh and unpack(self.table, journal)
            held.callback(self._clear)
            super().__init__(journal, Rows(), run, fresh=fresh, retry=retry)
            self._held = held.pop_all()

    def confirm(self, precision: str, files: Mapping[str, str] | None = None) -> None:
        try:
            super().confirm(precision, files)
        except OutputError:
            self._held.close()
            raise

    def append(self, answer: Answer) -> None:
        self._news = True
        super().append(answer)

    def close(
        self, complete: bool, items: Iterable[Item] | None = None, limited: bool = False
    ) -> None:
        """As of any journal; if `complete`, the table replaces it."""
        with self._held:
            super().close(complete, items, limited)
            if complete:
                self._pack()

    def discard(self) -> None:
        with self._held:
            super().discard()

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.path.exists() or self.target.exists():
            yield from super().rows()
            return
        for row in rows_in(self.table):
            yield key(row["id"], images_of(row), row["question"]), row

    def _pack(self) -> None:
        run = read_settings(self.path) or {}
        now_complete = "complete" in run and run != run_of(self.table)
        if self._news or not self._unpacked or now_complete:
            with replacing(self.table) as file:
                write(file, journal_rows(self.path, self.form), run)
        remove(self.path)

    def _clear(self) -> None:
        """Remove a journal that has no more in it than the table."""
        if self._unpacked and not self._news:
            remove(self.path)

    def _refusal(self, other: str) -> OutputError:
        return OutputError(
            f"{self.table} holds {other}. Choose another --out, or answer everything again with "
            "--fresh."
        )


def open_journal(
    path: Path, form: Format, run: Mapping[str, Any], *, fresh: bool, retry: bool
) -> Journal:
    """The output `path` of a run. Raises OutputError."""
    if form.name == Rows.name:
        return Packed(path, run, fresh=fresh, retry=retry)
    return Journal(path, form, run, fresh=fresh, retry=retry)


def rows_file(path: Path) -> Path:
    """The journal of a table that is not whole yet."""
    target = link_target(path)
    return target.with_name(target.name + ".jsonl")


def check_table(path: Path) -> None:
    """Raise OutputError if a table of answers would replace anything else."""
    if path.is_dir():
        raise OutputError(f"--out {path} is a folder; give a file.")
    if has_content(path) and run_of(path) is None:
        raise OutputError(
            f"{path} was not written by sts. Choose another --out, or move that file away."
        )


def whole(journal: Path, run: Mapping[str, Any]) -> bool:
    """True if a journal has all rows of this run."""
    settings = (read_settings(journal) if journal.exists() else None) or {}
    return "complete" in settings and difference(settings, run) is None


def unpack(table: Path, journal: Path) -> bool:
    """Make a journal of a table that has none; True if it did."""
    run = None if journal.exists() else run_of(table)
    if run is None:
        return False
    kept = read_settings(journal) or {}  # of a --fresh run that is not complete
    run = {name: value for name, value in run.items() if name != "complete"}
    write_settings(journal, {**run, **({FRESH: kept[FRESH]} if FRESH in kept else {})})
    with replacing(journal) as file:
        for row in rows_in(table):
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return True


def remove(journal: Path) -> None:
    """Remove a journal, and then its settings."""
    with write_errors(journal):
        journal.unlink(missing_ok=True)
        run_file(journal).unlink(missing_ok=True)


def journal_rows(journal: Path, form: Format) -> Iterator[dict[str, Any]]:
    """The output rows in a journal."""
    with journal.open("rb") as file:
        for record in read(journal, form):
            file.seek(record.start)
            yield json.loads(file.read(record.end - record.start))


def stored(path: Path, form: JsonLines) -> tuple[dict[str, Any] | None, Iterator[dict[str, Any]]]:
    """The settings and the rows of an output of JSON lines, or of a table."""
    table = form.name == Rows.name
    journal = rows_file(path) if table else path
    if table and not journal.exists():
        return run_of(path), rows_in(path)
    return read_settings(journal), journal_rows(journal, form)
