"""Early ends of a command: Ctrl-C, SIGTERM, a closed terminal, a pipe that nobody reads."""

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

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # the last is Ctrl-Break on Windows
MESSAGE = b"\nFinishing the current batch; press Ctrl-C again to stop now.\n"
CLOSED_PIPE = 141  # exit code of programs that SIGPIPE ends
FAILED = 1  # exit code if the disk is full
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def while_read() -> Iterator[None]:
    """End quietly when nobody reads standard output any more: `sts models | head -1`.

    End with one sentence if standard output is a file on a full disk.
    """
    try:
        try:
            yield
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:
                raise
            with to_stdout():
                raise  # standard output failed: errors of other files have a file name
        finally:
            with to_stdout():
                sys.stdout.flush()  # also if the command ends by an Exit
    except BrokenPipeError as error:
        give_up()
        raise typer.Exit(CLOSED_PIPE) from error
    except StdoutError as error:
        stderr().print(f"sts: {error}", style="red", markup=False)
        raise typer.Exit(FAILED) from error


class Interruption:
    """While entered, the first signal sets `asked`; the second raises KeyboardInterrupt.

    So the first signal lets the current batch finish, and the second stops at once.
    """

    def __init__(self, quiet: bool, message: bytes = MESSAGE, descriptor: int = 2):
        self.asked = False
        self._quiet = quiet
        self._message = message
        self._descriptor = descriptor
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
                # not through a buffer that this signal may have interrupted
                os.write(self._descriptor, self._message)
