"""Answers on standard output, each written and flushed when it is known."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from sts_cli.outputs.formats import Format
from sts_cli.records import Answer, Item


class Stdout:
    """Like a journal that never was written before."""

    before = errors = 0  # records that are there already, and those of them that have an error
    agreed = (0, 0)

    def __init__(self, form: Format):
        self.form = form
        self._empty = True

    def confirm(self, precision: str) -> None:
        """Any precision will do."""

    def discard(self) -> None:
        """There is nothing to leave behind."""

    def take(self, item: Item) -> bool:
        return False

    def covers(self, items: Iterable[Item], dtype: str) -> bool:
        return False

    def append(self, answer: Answer) -> None:
        self._write(self.form.before(self._empty) + self.form.record(answer))
        self._empty = False

    def close(self, complete: bool, items: Iterable[Item] | None = None) -> None:
        if complete and not self._empty:
            self._write(self.form.closing)

    def _write(self, record: bytes) -> None:
        sys.stdout.buffer.write(record)
        sys.stdout.buffer.flush()


class Nowhere(Stdout):
    """For runs whose answers only go into sidecars."""

    def _write(self, record: bytes) -> None:
        pass
