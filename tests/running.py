"""`sts` as a user runs it: in this process where that does not matter, else in one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from sts_cli.__main__ import main

COMMAND = [sys.executable, "-m", "sts_cli"]


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it said."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def sts(*arguments: object, stdin: bytes = b"") -> Done:
    """Run `sts` here, so that torch is imported once for all tests."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        patch.object(sys, "argv", ["sts", *map(str, arguments)]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")),
        patch.object(sys, "stdout", out),
        patch.object(sys, "stderr", err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    return Done(code, *(one.buffer.getvalue().decode() for one in (out, err)))  # type: ignore


def on_terminal(*arguments: object) -> Done:
    """Run `sts` here, on a terminal of 80 columns; `out` is all that the terminal was sent."""
    master, slave = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # Linux ends a terminal with an error
            while part := os.read(master, 1 << 16):
                drawn.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    code = 0
    with (
        open(slave, "w", encoding="utf-8") as screen,
        patch.object(sys, "argv", ["sts", *map(str, arguments)]),
        patch.object(sys, "stdout", screen),
        patch.object(sys, "stderr", screen),
        patch.dict(os.environ, TERM="xterm", COLUMNS="80"),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
    reader.join()
    os.close(master)
    return Done(code, b"".join(drawn).decode(), "")


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `sts` in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, **options
    )


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start `sts` and go on; its standard error is a pipe that tells how far it is."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_signals,
        **options,
    )


def hears_signals() -> None:
    """As in a terminal, even where the tests themselves run in the background or under nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def without_times(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what differs from run to run, or with the rows of a batch in bfloat16."""
    apart = ("seconds", "rows", "certainty")
    return [{key: row[key] for key in row if key not in apart} for row in rows]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import it where many files are written: only a cut of power could tell the difference."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
