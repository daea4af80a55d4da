"""An output file that is its own journal: appended row by row, resumed after any end."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import Appender, explained
from sts_cli.outputs.formats import Format
from sts_cli.outputs.keys import Answered
from sts_cli.outputs.lock import Lock
from sts_cli.outputs.scan import Found, reorder, scan, without_errors
from sts_cli.outputs.settings import (
    FRESH,
    difference,
    file_meant,
    read_settings,
    run_file,
    write_settings,
)
from sts_cli.records import Answer, Item

NOTHING = Found(array("Q"), 0, 0, frozenset(), (0, 0))


class Journal:
    """Answers in a file: one record each, written when it is known, never twice.

    Opening locks the file, cuts off a record that was half written, and learns whose answers it
    holds. `run` says what answers depend on; it stands beside the file in `NAME.run`, and a file
    of another run is refused, as is one that sts did not write. `fresh` answers everything again,
    into a new file that takes the old one's place when it is complete. `retry` forgets records
    that have an error. Raises OutputError.
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
        path = file_meant(path)
        self.path = path
        self.form = form
        self.run = dict(run)
        self.fresh = fresh
        self.target = path.with_name(path.name + ".part") if fresh else path
        if path.is_dir():
            raise OutputError(f"--out {path} is a folder; give a file.")
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            opened.enter_context(Lock(path))
            self._settings = self._read_settings()
            found = self._continued(retry)
            self.answered = Answered(found.keys)
            self.before, self.errors = len(found.keys), found.failed
            self.agreed = found.agreed
            self._file = Appender(self.target, found.end)
            self._opened = opened.pop_all()
        self._empty = self.before == 0
        self._order = array("Q")  # keys of the rows in the order of the input

    def confirm(self, precision: str, files: Mapping[str, str] | None = None) -> None:
        """The model is loaded, in this precision, from these files: the last chance to refuse."""
        run = {**self.run, "precision": precision, **({"files": dict(files)} if files else {})}
        other = None if self._empty else difference(self._earlier(), run)
        if other is not None:
            self._opened.close()
            raise self._holds(other)
        self._note({**self._settings, FRESH: run} if self.fresh else run)

    def take(self, item: Item) -> bool:
        """True if an earlier run answered the item; each answer counts for one item."""
        key = self.form.key(item)
        if self.before:
            self._order.append(key)
        return self.answered.take(key)

    def covers(self, items: Iterable[Item], dtype: str) -> bool:
        """True if earlier runs answered every item that is left, and in this precision."""
        precision = self._earlier().get("precision")  # None where the settings are lost
        if precision is None or not self.before:
            return False
        if dtype != "auto" and not precision.startswith(dtype):
            return False
        return all(self.answered.take(self.form.key(item)) for item in items)

    def append(self, answer: Answer) -> None:
        """Write one record. After an OutputError everything before it is still whole."""
        self._file.append(self.form.before(self._empty) + self.form.record(answer))
        self._empty = False

    def close(
        self, complete: bool, items: Iterable[Item] | None = None, limited: bool = False
    ) -> None:
        """Put everything on disk; a `complete` file of several runs in the order of `items`.

        Without `items` they are those that were offered to `take`. A file that is complete but for
        a --limit is not noted as such.
        """
        with self._opened:
            if complete and not self._empty:
                self._file.append(self.form.closing)
            self._file.close()
            if complete and self.before:
                order = self._order if items is None else map(self.form.key, items)
                reorder(self.target, self.form, order)
            if complete and self.fresh:
                with explained(self.path):
                    os.replace(self.target, self.path)
            if complete and (self.fresh or not limited):
                run = self._settings[FRESH] if self.fresh else self._settings
                self._note(run if limited else {**run, "complete": True})

    def discard(self) -> None:
        """The run cannot begin: leave no file that it began."""
        with self._opened:
            self._file.close()
            if self._begun:
                self.target.unlink(missing_ok=True)

    def _continued(self, retry: bool) -> Found:
        """What the file holds already, if it is of this run."""
        self._begun = not self.target.exists()
        if self.fresh and has_content(self.path) and not self._settings:
            self._check_ours(self.path, scan(self.path, self.form))
        found = scan(self.target, self.form)
        earlier = self._earlier()
        if has_content(self.target) and not earlier:
            self._check_ours(self.target, NOTHING if self.fresh else found)
        if not found.keys:
            return found
        earlier = earlier or written_by(found)
        other = difference(earlier, self.run)
        if other is None and self.form.by_id and earlier.get("input", "stdin") == "stdin":
            other = f"{self.form.name} rows, which cannot be told from those of another stdin"
        if other is not None:
            if self.fresh:
                return NOTHING
            raise self._holds(other)
        if retry and found.failed:
            without_errors(self.target, self.form)
            found = scan(self.target, self.form)
        return found

    def _check_ours(self, path: Path, found: Found) -> None:
        """Raise OutputError unless a file whose settings nobody knows holds records of sts."""
        if not found.keys:
            raise OutputError(
                f"{path} is no output of sts that could be continued: no whole record is in it, "
                f"and no {run_file(self.path).name} beside it. Choose another --out, or move that "
                "file away."
            )

    def _holds(self, other: str) -> OutputError:
        """For a file that another run wrote; names what differs."""
        return OutputError(
            f"{self.path} holds {other}. Choose another --out, or answer everything again with "
            "--fresh."
        )

    def _earlier(self) -> dict[str, Any]:
        """The settings of the run that wrote what is there, if they are known."""
        earlier: dict[str, Any] = self._settings.get(FRESH, {}) if self.fresh else self._settings
        return earlier

    def _read_settings(self) -> dict[str, Any]:
        found = read_settings(self.path)
        if found is None and has_content(self.path) and not self.fresh:
            raise self._holds(f"answers of an unknown run, as {run_file(self.path)} is empty")
        if found is None:
            return {}
        renamed = FRESH in found and not self.path.with_name(self.path.name + ".part").exists()
        settings: dict[str, Any] = found[FRESH] if renamed else found  # killed after the renaming
        return settings

    def _note(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        write_settings(self.path, settings)


def has_content(path: Path) -> bool:
    """Whether there is a file with at least one byte."""
    return path.exists() and path.stat().st_size > 0


def written_by(found: Found) -> dict[str, Any]:
    """What records say about the run that wrote them, where its settings are lost."""
    return {"model": next(iter(found.models))} if len(found.models) == 1 else {}
