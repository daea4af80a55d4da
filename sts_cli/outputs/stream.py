"""Answers on standard output, each written and flushed when it is known."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sts_cli.errors import OutputError
from sts_cli.outputs.disk import reason
from sts_cli.outputs.formats import Format
from sts_cli.records import Answer, Item
from sts_cli.report.visible import visible_json

# The error of a pipe that nobody reads
CLOSED = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)


class StdoutError(OutputError):
    """Standard output that cannot be written, such as a file on a full disk."""


@contextlib.contextmanager
def to_stdout() -> Iterator[None]:
    """Raise errors of standard output as a StdoutError, except a BrokenPipeError."""
    try:
        yield
    except OSError as error:
        give_up()
        if error.errno in CLOSED:
            raise BrokenPipeError(*error.args) from error
        raise StdoutError(f"Cannot write standard output: {reason(error)}.") from error


def give_up() -> None:
    """Throw the rest of standard output away; else Python would fail to flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Stdout:
    """A journal on standard output, without earlier records."""

    before = errors = 0  # earlier records, and those of them that have an error
    agreed = (0, 0)

    def __init__(self, form: Format):
        self.form = form
        self._empty = True

    def confirm(self, precision: str, files: Mapping[str, str] | None = None) -> None:
        """Accept any model in any precision."""

    def discard(self) -> None:
        """Do nothing: there is no file to remove."""

    def take(self, item: Item) -> bool:
        return False

    def covers(self, items: Iterable[Item], dtype: str) -> bool:
        return False

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Nothing: rows are not kept."""
        return iter(())

    def append(self, answer: Answer) -> None:
        self._write(self.form.before(self._empty) + self.form.record(answer))
        self._empty = False

    def close(
        self, complete: bool, items: Iterable[Item] | None = None, limited: bool = False
    ) -> None:
        if complete and not self._empty:
            self._write(self.form.closing)

    def _write(self, record: bytes) -> None:
        if sys.stdout.isatty():
            record = visible_json(record.decode()).encode()
        with to_stdout():
            sys.stdout.buffer.write(record)
            sys.stdout.buffer.flush()


class Nowhere(Stdout):
    """No output, for runs that only write sidecars."""

    def _write(self, record: bytes) -> None:
        pass
