"""An output file that is its own journal: appended row by row, resumed after any end."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs import csv, jsonl
from sts_cli.records import Answer

FORMATS: Mapping[str, ModuleType] = {".jsonl": jsonl, ".csv": csv}
SYNC_SECONDS = 5.0  # a power cut loses at most the rows of this long; a killed process loses none


class Journal:
    """Answers in a file, one record each, written when known and never twice.

    Opening locks the file, cuts off a record that was half written, and reads which ids are done.
    `run` says what the answers depend on (model, profile, ...); it stands beside the file in
    `NAME.run`, and a run that differs is refused. `fresh` starts over in a new file that replaces
    the old one when the journal is closed as complete. `retry` forgets rows that have an error.
    Raises OutputError.
    """

    def __init__(
        self, path: Path, run: Mapping[str, Any], *, fresh: bool = False, retry: bool = False
    ):
        if path.suffix.lower() not in FORMATS:
            raise OutputError(f"--out {path}: the name must end in {' or '.join(FORMATS)}.")
        self.path, self.format = path, FORMATS[path.suffix.lower()]
        self._run = path.with_name(path.name + ".run")
        self._target = path.with_name(path.name + ".part") if fresh else path
        self.done: set[int] = set()
        self.errors = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._lock()
            if fresh:
                os.ftruncate(self._file, 0)
            self._resume(dict(run), retry)
        except OSError as error:
            raise OutputError(f"Cannot write {path}: {error.strerror}.") from error
        self._synced = monotonic()

    def __contains__(self, id_: str) -> bool:
        return hash(id_) in self.done

    def append(self, answer: Answer) -> None:
        """Write one record, whole or not at all. Raises OutputError, the file staying valid."""
        self._write(self.format.encode(answer))
        if monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = monotonic()

    def close(self, complete: bool = True) -> None:
        """Put everything on disk; a fresh file takes the old one's place if it is `complete`."""
        try:
            os.fsync(self._file)
            if self._target != self.path and complete:
                os.replace(self._target, self.path)
        except OSError as error:
            raise OutputError(f"Cannot finish {self.path}: {error.strerror}.") from error
        finally:
            os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise OutputError(
                f"{self.path} is being written by another run. Wait for it, or choose another "
                "--out."
            ) from error

    def _resume(self, run: dict[str, Any], retry: bool) -> None:
        size = self._repair()
        if size > len(self.format.HEADER):
            self._same_run(run)
            if retry:
                self._forget_errors()
            try:
                for id_, answered in self.format.finished(self._target):
                    self.done.add(hash(id_))
                    self.errors += not answered
            except (ValueError, csv.csv.Error) as error:
                raise OutputError(
                    f"{self.path} cannot be continued: {error}. Choose another --out, or start "
                    "over with --fresh."
                ) from error
        else:
            self._write_run(run)
            if size == 0 and self.format.HEADER:
                self._write(self.format.HEADER)

    def _repair(self) -> int:
        """Cut off a half-written last record; returns the file's size."""
        size = os.fstat(self._file).st_size
        end, block, keep = self.format.END, 1 << 16, 0
        position = size
        while position > 0:
            start = max(0, position - block)
            data = os.pread(self._file, position - start + len(end), start)
            found = data.rfind(end)
            if found >= 0:
                keep = start + found + len(end)
                break
            position = start
        if keep < size:
            os.ftruncate(self._file, keep)
        return keep

    def _same_run(self, run: dict[str, Any]) -> None:
        try:
            before = json.loads(self._run.read_text("utf-8"))
        except (OSError, ValueError):
            return  # rows without their run file: the ids decide
        for key, value in run.items():
            if key in before and before[key] != value:
                raise OutputError(
                    f"{self.path} was made with {key} {_short(before[key])}, this run has "
                    f"{_short(value)}. Choose another --out, or start over with --fresh."
                )

    def _write_run(self, run: dict[str, Any]) -> None:
        part = self._run.with_name(self._run.name + ".part")
        part.write_text(json.dumps(run, indent=1) + "\n", "utf-8")
        os.replace(part, self._run)

    def _forget_errors(self) -> None:
        """Take rows with errors out of the file; the lock moves with it."""
        part = self._target.with_name(self._target.name + ".part")
        with part.open("wb") as file:
            file.writelines(self.format.answered_only(self._target))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._target)
        old = self._file
        self._file = os.open(self._target, os.O_RDWR | os.O_APPEND)
        self._lock()
        os.close(old)

    def _write(self, record: bytes) -> None:
        before = os.fstat(self._file).st_size
        try:
            view = memoryview(record)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror}. Every answer in it is whole; make "
                "room and run the same command again to go on."
            ) from error


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"
