"""What ends a command early: Ctrl-C, SIGTERM, a closed terminal, a pipe that nobody reads."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import typer

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
MESSAGE = b"\nFinishing the batch in hand; press Ctrl-C again to stop now.\n"
CLOSED_PIPE = 141  # exit code, as of a program that SIGPIPE ended


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Leave quietly once nobody reads standard output any more: `sts models | head -1`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # also where the command ends by an Exit
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        raise typer.Exit(CLOSED_PIPE) from error


class Interruption:
    """While entered, signals set `asked` instead of raising; a second one raises.

    So the first finishes the batch in hand, and the second stops.
    """

    def __init__(self, quiet: bool):
        self.asked = False
        self._quiet = quiet
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        for name in SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self._quiet:
            with contextlib.suppress(OSError):
                os.write(2, MESSAGE)  # not through a buffer that this signal may have interrupted
