"""The first reading of a question file: its rows are counted and its bytes are hashed in one go."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sts_cli.inputs.rows import Origin
from sts_cli.records import Item


@dataclass(frozen=True, slots=True)
class Survey:
    """The number of rows in a file, and the SHA-256 of its bytes."""

    count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """A question file that was opened: its items, again at each call, and what is known of it."""

    items: Callable[[Origin], Iterator[Item]]
    survey: Callable[[], Survey]  # reads the file at most once
    first: object = None  # its first row, which tells the form of all
    form: str | None = None  # where the file tells it, and not a row


class Hashed(io.FileIO):
    """A file whose bytes are hashed as they are read from the start to the end."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.digest = hashlib.sha256()

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        self.digest.update(memoryview(buffer)[:size])
        return size


def survey(path: Path, rows_in: Callable[[io.BufferedReader], Iterable[object]]) -> Survey:
    """Read a whole file through `rows_in`, and raise what that raises."""
    file = Hashed(path)
    buffered: Any = io.BufferedReader(file)
    with buffered:
        count = sum(1 for _ in rows_in(buffered))
    return Survey(count, file.digest.hexdigest())
