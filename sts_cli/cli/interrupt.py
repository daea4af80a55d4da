"""What ends a command early: Ctrl-C, SIGTERM, a closed terminal, a pipe that nobody reads."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import typer

from sts_cli.outputs.stream import StdoutError, give_up, to_stdout
from sts_cli.report.console import stderr

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
MESSAGE = b"\nFinishing the batch in hand; press Ctrl-C again to stop now.\n"
CLOSED_PIPE = 141  # exit code, as of a program that SIGPIPE ended
FAILED = 1  # exit code of a run that the disk ended
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """Leave quietly once nobody reads standard output any more: `sts models | head -1`.

    With one sentence where it is a file on a full disk.
    """
    try:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            with to_stdout():
                raise  # a print failed: whatever else is written tells the name of its file
        finally:
            with to_stdout():
                sys.stdout.flush()  # also where the command ends by an Exit
    except BrokenPipeError as error:
        give_up()
        raise typer.Exit(CLOSED_PIPE) from error
    except StdoutError as error:
        stderr().print(f"sts: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from error


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
