"""An output file that is its own journal: written row by row, continued after any stop."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import Appender, write_errors
from sts_cli.outputs.formats import Format
from sts_cli.outputs.keys import Answered
from sts_cli.outputs.lock import Lock
from sts_cli.outputs.scan import Contents, drop_errors, read, reorder, scan
from sts_cli.outputs.settings import (
    FRESH,
    difference,
    link_target,
    read_settings,
    run_file,
    write_settings,
)
from sts_cli.records import Answer, Item

EMPTY = Contents(array("Q"), 0, 0, frozenset(), (0, 0))


class Journal:
    """Answers in a file: one record each, written when it is known, never twice.

    Opening locks the file, cuts off a half-written record, and reads which rows have answers.
    `run` holds the settings that answers depend on; `NAME.run` beside the file keeps them. A file
    of another run, or one that sts did not write, is refused. `fresh` answers everything again, in
    a new file that replaces the old one when it is complete. `retry` drops records that have an
    error. Raises OutputError.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        run: Mapping[str, Any],
        *,
        fresh: bool = False,
        retry: bool = False,
    ):
        path = link_target(path)
        self.path = path
        self.form = form
        self.run = dict(run)
        self.fresh = fresh
        self.target = path.with_name(path.name + ".part") if fresh else path
        if path.is_dir():
            raise OutputError(f"--out {path} is a folder; give a file.")
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            opened.enter_context(Lock(path))
            self._settings = self._read_settings()
            contents = self._continued(retry)
            self.answered = Answered(contents.keys)
            self.before, self.errors = len(contents.keys), contents.failed
            self.agreed = contents.agreed
            self._file = Appender(self.target, contents.end)
            self._opened = opened.pop_all()
        self._empty = self.before == 0
        self._order = array("Q")  # keys of the rows in the order of the input

    def confirm(self, precision: str, files: Mapping[str, str] | None = None) -> None:
        """Raise OutputError if earlier answers are of another precision or of other model files."""
        run = {**self.run, "precision": precision, **({"files": dict(files)} if files else {})}
        other = None if self._empty else difference(self._earlier(), run)
        if other is not None:
            self._opened.close()
            raise self._refusal(other)
        self._note({**self._settings, FRESH: run} if self.fresh else run)

    def take(self, item: Item) -> bool:
        """True if an earlier run answered the item; each answer counts for one item."""
        key = self.form.key(item)
        if self.before:
            self._order.append(key)
        return self.answered.take(key)

    def covers(self, items: Iterable[Item], dtype: str) -> bool:
        """True if earlier runs answered every item that is left, and in this precision."""
        precision = self._earlier().get("precision")  # None if the settings are lost
        if precision is None or not self.before:
            return False
        if dtype != "auto" and not precision.startswith(dtype):
            return False
        return all(self.answered.take(self.form.key(item)) for item in items)

    def append(self, answer: Answer) -> None:
        """Write one record. After an OutputError all records before it are still whole."""
        self._file.append(self.form.before(self._empty) + self.form.record(answer))
        self._empty = False

    def close(
        self, complete: bool, items: Iterable[Item] | None = None, limited: bool = False
    ) -> None:
        """Put everything on disk; sort a `complete` file of several runs by `items`.

        Without `items` they are those that were offered to `take`. A `limited` file is not marked
        as complete.
        """
        with self._opened:
            if complete and not self._empty:
                self._file.append(self.form.closing)
            self._file.close()
            if complete and self.before:
                order = self._order if items is None else map(self.form.key, items)
                reorder(self.target, self.form, order)
            if complete and self.fresh:
                with write_errors(self.path):
                    os.replace(self.target, self.path)
            if complete and (self.fresh or not limited):
                run = self._settings[FRESH] if self.fresh else self._settings
                self._note(run if limited else {**run, "complete": True})

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The key and the row of each record, in the order of the closed file."""
        path = self.target if self.target.exists() else self.path
        with path.open("rb") as file:
            for record in read(path, self.form):
                file.seek(record.start)
                yield record.key, self.form.row_of(file.read(record.end - record.start))

    def discard(self) -> None:
        """Remove the file that this run created, if it cannot begin."""
        with self._opened:
            self._file.close()
            if self._begun:
                self.target.unlink(missing_ok=True)

    def _continued(self, retry: bool) -> Contents:
        """The contents of the file, if it is of this run."""
        self._begun = not self.target.exists()
        if self.fresh and has_content(self.path) and not self._settings:
            self._check_ours(self.path, scan(self.path, self.form))
        contents = scan(self.target, self.form)
        earlier = self._earlier()
        if has_content(self.target) and not earlier:
            self._check_ours(self.target, EMPTY if self.fresh else contents)
        if not contents.keys:
            return contents
        earlier = earlier or settings_of(contents)
        other = difference(earlier, self.run)
        if other is None and self.form.by_id and earlier.get("input", "stdin") == "stdin":
            other = f"{self.form.name} rows, which may answer other questions"
        if other is not None:
            if self.fresh:
                return EMPTY
            raise self._refusal(other)
        if retry and contents.failed:
            drop_errors(self.target, self.form)
            contents = scan(self.target, self.form)
        return contents

    def _check_ours(self, path: Path, contents: Contents) -> None:
        """Raise OutputError if a file without settings has no record of sts, either."""
        if not contents.keys:
            raise OutputError(
                f"Cannot continue {path}: it has no whole record, and there is no "
                f"{run_file(self.path).name}. Choose another --out, or move that file away."
            )

    def _refusal(self, other: str) -> OutputError:
        """The error for a file that holds the answers of another run."""
        return OutputError(
            f"{self.path} holds {other}. Choose another --out, or answer everything again with "
            "--fresh."
        )

    def _earlier(self) -> dict[str, Any]:
        """The settings of the run that wrote the file, if they are known."""
        earlier: dict[str, Any] = self._settings.get(FRESH, {}) if self.fresh else self._settings
        return earlier

    def _read_settings(self) -> dict[str, Any]:
        stored = read_settings(self.path)
        if stored is None and has_content(self.path) and not self.fresh:
            raise self._refusal(f"answers of an unknown run: {run_file(self.path)} is empty")
        if stored is None:
            return {}
        renamed = FRESH in stored and not self.path.with_name(self.path.name + ".part").exists()
        settings: dict[str, Any] = stored[FRESH] if renamed else stored  # killed after the renaming
        return settings

    def _note(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        write_settings(self.path, settings)


def has_content(path: Path) -> bool:
    """True if there is a file with at least one byte."""
    return path.exists() and path.stat().st_size > 0


def settings_of(contents: Contents) -> dict[str, Any]:
    """The settings that records themselves show, for a file whose settings are lost."""
    return {"model": next(iter(contents.models))} if len(contents.models) == 1 else {}
