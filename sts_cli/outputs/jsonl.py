"""Answers as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sts_cli.records import Answer, answer_row

HEADER = b""
END = b"\n"


def encode(answer: Answer) -> bytes:
    """One line, valid JSON whatever the answer holds: pure ASCII, no NaN."""
    return json.dumps(answer_row(answer), allow_nan=False).encode("ascii") + END


def finished(path: Path) -> Iterator[tuple[str, bool]]:
    """The id of every row in the file, and whether it was answered. Raises ValueError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                yield str(row["id"]), row["error"] is None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} is not a row that sts wrote") from error


def answered_only(path: Path) -> Iterator[bytes]:
    """The file's lines without rows that have an error."""
    with path.open("rb") as file:
        for line in file:
            if json.loads(line)["error"] is None:
                yield line
