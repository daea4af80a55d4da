"""Answers on standard output, one JSON line each."""

from __future__ import annotations

import sys

from sts_cli.outputs import jsonl
from sts_cli.records import Answer


class Stdout:
    """Nothing is done before; every line is flushed."""

    errors = 0

    def __contains__(self, id_: str) -> bool:
        return False

    def append(self, answer: Answer) -> None:
        sys.stdout.buffer.write(jsonl.encode(answer))
        sys.stdout.buffer.flush()

    def close(self, complete: bool = True) -> None:
        sys.stdout.flush()
