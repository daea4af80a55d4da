"""An output file that is its own journal: appended row by row, resumed after any end."""

from __future__ import annotations

import contextlib
import json
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
from sts_cli.records import Answer, Item

NOTHING = Found(array("Q"), 0, 0, frozenset(), (0, 0))
FRESH = "fresh"  # in the settings: those of a --fresh run that is not complete


class Journal:
    """Answers in a file: one record each, written when it is known, never twice.

    Opening locks the file, cuts off a record that was half written, and learns whose answers it
    holds. `run` says what answers depend on; it stands beside the file in `NAME.run`, and a file
    of another run is refused. `fresh` answers everything again, into a new file that takes the
    old one's place when it is complete. `retry` forgets records that have an error.
    Raises OutputError.
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
        self._lock = Lock(run_file(path), path)
        with contextlib.ExitStack() as opened:
            opened.enter_context(self._lock)
            self._settings = self._read_settings()
            found = self._continued(retry)
            self.answered = Answered(found.keys)
            self.before, self.errors = len(found.keys), found.failed
            self.agreed = found.agreed
            self._file = Appender(self.target, found.end)
            self._opened = opened.pop_all()
        self._empty = self.before == 0

    def confirm(self, precision: str) -> None:
        """The model is loaded, in this precision: the last chance to refuse."""
        before = self._earlier().get("precision", precision)
        if not self._empty and before != precision:
            self._opened.close()
            raise self._other("precision", before, precision)
        run = {**self.run, "precision": precision}
        self._note({**self._settings, FRESH: run} if self.fresh else run)

    def take(self, item: Item) -> bool:
        """Whether the item was answered by an earlier run; each answer counts for one item."""
        return self.answered.take(self.form.key(item))

    def covers(self, items: Iterable[Item], dtype: str) -> bool:
        """Whether earlier runs answered every item, and in this precision."""
        precision = self._earlier().get("precision")  # None where the settings are lost
        if precision is None or not self.before:
            return False
        if dtype != "auto" and not precision.startswith(dtype):
            return False
        covered = all(self.take(item) for item in items)
        self.answered.give_back()
        return covered

    def append(self, answer: Answer) -> None:
        """Write one record. After an OutputError everything before it is still whole."""
        self._file.append(self.form.before(self._empty) + self.form.record(answer))
        self._empty = False

    def close(self, complete: bool, items: Iterable[Item] | None = None) -> None:
        """Put everything on disk; a `complete` file of several runs in the order of `items`."""
        with self._opened:
            if complete and not self._empty:
                self._file.append(self.form.closing)
            self._file.close()
            if complete and items is not None and self.before:
                reorder(self.target, self.form, items)
            if complete and self.fresh:
                with explained(self.path):
                    os.replace(self.target, self.path)
            if complete:
                run = self._settings[FRESH] if self.fresh else self._settings
                self._note({**run, "complete": True})

    def discard(self) -> None:
        """The run cannot begin: leave no file that it began."""
        with self._opened:
            self._file.close()
            if self._begun:
                self.target.unlink(missing_ok=True)

    def _continued(self, retry: bool) -> Found:
        """What the file holds already, if it is of this run."""
        self._begun = not self.target.exists()
        found = scan(self.target, self.form)
        if not found.keys:
            return found
        earlier = self._earlier() or written_by(found)
        for name, value in self.run.items():
            if earlier.get(name, value) != value:
                if self.fresh:
                    return NOTHING
                raise self._other(name, earlier[name], value)
        if retry and found.failed:
            without_errors(self.target, self.form)
            found = scan(self.target, self.form)
        return found

    def _other(self, name: str, before: object, now: object) -> OutputError:
        """For a file that another run wrote; names what differs."""
        if name == "input":
            what = "answers to another input, or the input has changed since"
        elif isinstance(before, dict) and isinstance(now, dict):
            what = f"answers of another {name}: {difference(before, now)}"
        else:
            what = f"answers with {name} {short(before)}, not {short(now)}"
        return OutputError(
            f"{self.path} holds {what}. Choose another --out, or answer everything again with "
            "--fresh."
        )

    def _earlier(self) -> dict[str, Any]:
        """The settings of the run that wrote what is there, if they are known."""
        earlier: dict[str, Any] = self._settings.get(FRESH, {}) if self.fresh else self._settings
        return earlier

    def _read_settings(self) -> dict[str, Any]:
        try:
            found = json.loads(self._lock.read())
        except ValueError:
            return {}
        if not isinstance(found, dict):
            return {}
        renamed = FRESH in found and not self.path.with_name(self.path.name + ".part").exists()
        settings: dict[str, Any] = found[FRESH] if renamed else found  # killed after the renaming
        return settings

    def _note(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._lock.write(json.dumps(settings, indent=1).encode() + b"\n")


def file_meant(path: Path) -> Path:
    """The file behind a link, so that replacing it keeps the link."""
    return path.resolve() if path.is_symlink() else path


def run_file(path: Path) -> Path:
    """Where it stands what the answers in the file `path` depend on."""
    meant = file_meant(path)
    return meant.with_name(meant.name + ".run")


def written_by(found: Found) -> dict[str, Any]:
    """What records say about the run that wrote them, where its settings are lost."""
    return {"model": next(iter(found.models))} if len(found.models) == 1 else {}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two settings differ."""
    name = next(key for key in now if before.get(key) != now[key])
    return f"{name} {short(before.get(name))}, not {short(now[name])}"


def short(value: object) -> str:
    """A setting in a message."""
    if isinstance(value, dict):
        return json.dumps(value)[:160]
    return "unset" if value is None else f"'{str(value)[:80]}'"
